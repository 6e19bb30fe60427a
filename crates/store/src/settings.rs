//! Small texts that the service keeps for itself, by name.

use crate::error::StoreError;
use crate::sql::Query;
use crate::store::Store;

impl Store {
    pub async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row =
            Query::new("select value from settings where name = $1").bind(name).fetch_optional(self.pool()).await?;
        row.map(|row| row.text(0)).transpose()
    }

    /// Sets a text in the place of an earlier one.
    pub async fn put_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let put = Query::new(
            "insert into settings (name, value) values ($1, $2)
             on conflict (name) do update set value = excluded.value",
        )
        .bind(name)
        .bind(value);
        self.db().write(move |tx| Box::pin(async move { put.execute(&mut tx.connection).await.map(drop) })).await
    }
}
