//! OAuth clients that registered themselves with an authorization server. Must not know what
//! is sealed in them.

use integration_model::{DefinitionId, Timestamp};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::StoreError;
use crate::sql::Query;
use crate::store::Store;
use crate::vault::Sealed;

impl Store {
    /// The client that a definition registered at a server for a redirect URI, opened, with
    /// the time when its secret expires.
    pub async fn oauth_client(
        &self,
        definition: &DefinitionId,
        registration_url: &str,
        redirect_uri: &str,
    ) -> Result<Option<(Zeroizing<Vec<u8>>, Option<Timestamp>)>, StoreError> {
        let row = Query::new(
            "select secret_id, key_id, wrapped_key, sealed, expires_at from oauth_clients
             where definition_id = $1 and registration_url = $2 and redirect_uri = $3",
        )
        .bind(definition.as_str())
        .bind(registration_url)
        .bind(redirect_uri)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id = row.uuid(0)?;
        let sealed = Sealed::from_row(id, row.text(1)?, row.bytes(2)?, row.bytes(3)?);
        let plaintext = self.vault().open(&sealed, &owner(definition, registration_url, &id)).await?;
        Ok(Some((plaintext, row.opt_time(4)?)))
    }

    /// Keeps a registered client, unless another process registered one meanwhile.
    pub async fn put_oauth_client(
        &self,
        definition: &DefinitionId,
        registration_url: &str,
        redirect_uri: &str,
        expires_at: Option<Timestamp>,
        plaintext: &[u8],
    ) -> Result<(), StoreError> {
        let id = self.ids().next();
        let sealed = self.vault().seal(id, &owner(definition, registration_url, &id), plaintext).await?;
        let (definition, registration_url) = (definition.clone(), registration_url.to_owned());
        let redirect_uri = redirect_uri.to_owned();
        self.db()
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.db.clock.now();
                    Query::new(
                        "insert into oauth_clients (
                             definition_id, registration_url, redirect_uri, created_at, expires_at, secret_id, key_id,
                             wrapped_key, sealed
                         ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                         on conflict (definition_id, registration_url, redirect_uri) do update set
                             created_at = excluded.created_at, expires_at = excluded.expires_at,
                             secret_id = excluded.secret_id, key_id = excluded.key_id,
                             wrapped_key = excluded.wrapped_key, sealed = excluded.sealed
                         where oauth_clients.expires_at <= $4",
                    )
                    .bind(definition.as_str())
                    .bind(registration_url)
                    .bind(redirect_uri)
                    .bind(now)
                    .bind(expires_at)
                    .bind(id)
                    .bind(sealed.key_id)
                    .bind(sealed.wrapped_key)
                    .bind(sealed.sealed)
                    .execute(&mut tx.connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }
}

/// What the sealed part is bound to.
fn owner<'a>(definition: &'a DefinitionId, registration_url: &'a str, id: &'a Uuid) -> [&'a [u8]; 4] {
    [b"oauth-client", definition.as_str().as_bytes(), registration_url.as_bytes(), id.as_bytes()]
}
