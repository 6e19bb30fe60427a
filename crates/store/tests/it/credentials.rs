use integration_model::audit::AuditAction;
use integration_model::definition::AuthType;
use integration_model::instance::InstanceStatus;
use integration_store::{CredentialMeta, MasterKeys, RewrapReport, Store, StoreError, StoreOptions, VaultError};
use secrecy::{ExposeSecret, SecretString};

use crate::fixtures::{add_instance, audit, instance_id, publish_petshop, spec, tenant};
use crate::harness::{DAY, Harness, on_both, on_both_with_external};

on_both!(
    a_credential_opens_after_a_round_through_the_database,
    another_credential_takes_the_place_of_the_first,
    a_credential_and_its_instance_change_together,
    a_row_in_another_s_place_does_not_open,
    rotation_rewraps_every_secret_and_can_be_run_again,
    wrong_master_keys_are_refused_at_opening,
);

on_both_with_external!(
    a_credential_opens_after_a_round_through_the_database,
    another_credential_takes_the_place_of_the_first,
    a_credential_and_its_instance_change_together,
    rotation_rewraps_every_secret_and_can_be_run_again,
    wrong_master_keys_are_refused_at_opening,
);

pub(crate) fn meta() -> CredentialMeta {
    CredentialMeta {
        auth_type: AuthType::OAuth2,
        expires_at: None,
        scope: Some("read".to_owned()),
        refreshable: true,
        next_refresh_at: None,
        secrets_until: Vec::new(),
    }
}

pub(crate) async fn put(store: &Store, id: &str, secret: &[u8]) {
    store
        .put_credential(
            (&tenant("acme"), &instance_id(id)),
            &meta(),
            secret,
            None,
            Vec::new(),
            audit(AuditAction::CredentialStored),
        )
        .await
        .expect("stored");
}

pub(crate) async fn open(store: &Store, id: &str) -> Result<Vec<u8>, StoreError> {
    let credential = store.credential(&instance_id(id)).await?.ok_or(StoreError::NotFound)?;
    assert!(!format!("{credential:?}").contains("secret"));
    store.open_credential(&credential).await?;
    // The second time with the data key that is kept.
    Ok(store.open_credential(&credential).await?.to_vec())
}

async fn a_credential_opens_after_a_round_through_the_database(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let id = add_instance(store, "i1").await.id;
    let stored = store
        .put_credential(
            (&tenant("acme"), &id),
            &meta(),
            b"secret",
            None,
            Vec::new(),
            audit(AuditAction::CredentialStored),
        )
        .await
        .expect("stored");
    assert_eq!(store.open_credential(&stored).await.expect("opened").as_slice(), b"secret");
    assert_eq!(open(store, "i1").await.expect("opened"), b"secret");
    let read = store.credential(&id).await.expect("read").expect("there");
    assert_eq!((read.id, read.meta, read.key_id.as_str()), (stored.id, meta(), "k1"));
    for (tenant_id, instance) in [("acme", "i2"), ("other", "i1")] {
        let missing = store
            .put_credential(
                (&tenant(tenant_id), &instance_id(instance)),
                &meta(),
                b"x",
                None,
                Vec::new(),
                audit(AuditAction::CredentialStored),
            )
            .await;
        assert!(matches!(missing, Err(StoreError::NotFound)), "{tenant_id} {instance}");
    }
}

async fn another_credential_takes_the_place_of_the_first(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let id = add_instance(store, "i1").await.id;
    put(store, "i1", b"one").await;
    let first = store.credential(&id).await.expect("read").expect("there");
    let now = harness.clock.now();
    store.mark_credential_refused(&id, first.id, Some(now), None).await.expect("marked");
    let refused = store.credential(&id).await.expect("read").expect("there");
    assert_eq!(refused.refused_at, Some(now));
    harness.clock.advance(DAY);
    put(store, "i1", b"two").await;
    let second = store.credential(&id).await.expect("read").expect("there");
    assert_ne!(first.id, second.id);
    let of_another = store.mark_credential_refused(&id, first.id, Some(now), None).await;
    assert!(matches!(of_another, Err(StoreError::NotFound)));
    assert_eq!((second.created_at, second.refused_at), (first.created_at, None));
    assert_eq!(second.updated_at, harness.clock.now());
    assert_eq!(open(store, "i1").await.expect("opened"), b"two");
    store.delete_credential(&id, None, Vec::new(), audit(AuditAction::CredentialDeleted)).await.expect("deleted");
    assert!(store.credential(&id).await.expect("read").is_none());
    assert!(matches!(
        store.delete_credential(&id, None, Vec::new(), audit(AuditAction::CredentialDeleted)).await,
        Err(StoreError::NotFound)
    ));
    assert!(matches!(store.mark_credential_refused(&id, second.id, None, None).await, Err(StoreError::NotFound)));
}

async fn a_credential_and_its_instance_change_together(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let mut instance = add_instance(store, "i1").await;
    instance.status = InstanceStatus::Connected;
    let put = async |update| {
        store
            .put_credential(
                (&instance.tenant_id, &instance.id),
                &meta(),
                b"x",
                Some(update),
                Vec::new(),
                audit(AuditAction::CredentialStored),
            )
            .await
    };
    put(&instance).await.expect("stored");
    let changed = store.instance(&instance.id).await.expect("read").expect("there");
    assert_eq!((changed.status, changed.version), (InstanceStatus::Connected, 2));
    let before = store.credential(&instance.id).await.expect("read").expect("there").id;
    assert!(matches!(put(&instance).await, Err(StoreError::VersionConflict { current: 2 })));
    let after = store.credential(&instance.id).await.expect("read").expect("there").id;
    assert_eq!(before, after, "nothing of a refused change is kept");
    store
        .delete_credential(&instance.id, Some(&changed), Vec::new(), audit(AuditAction::CredentialDeleted))
        .await
        .expect("deleted");
    assert_eq!(store.instance(&instance.id).await.expect("read").expect("there").version, 3);
}

async fn a_row_in_another_s_place_does_not_open(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    for id in ["i1", "i2"] {
        add_instance(store, id).await;
        put(store, id, id.as_bytes()).await;
    }
    let swap = |columns: &[&str]| {
        let values: Vec<String> = columns
            .iter()
            .map(|column| format!("{column} = (select o.{column} from credentials o where o.instance_id = 'i1')"))
            .collect();
        format!("update credentials set {} where instance_id = 'i2'", values.join(", "))
    };
    harness.tamper(&swap(&["wrapped_key", "sealed"])).await;
    assert!(matches!(open(store, "i2").await, Err(StoreError::Vault(VaultError::DoesNotOpen { .. }))));
    harness.tamper("drop index credentials_secret").await;
    harness.tamper(&swap(&["secret_id", "wrapped_key", "sealed"])).await;
    assert!(matches!(open(store, "i2").await, Err(StoreError::Vault(VaultError::DoesNotOpen { .. }))));
    assert_eq!(open(store, "i1").await.expect("untouched"), b"i1");
}

async fn rotation_rewraps_every_secret_and_can_be_run_again(harness: &Harness) {
    let running = &harness.store;
    publish_petshop(running).await;
    for number in 0..5 {
        let id = format!("i{number}");
        add_instance(running, &id).await;
        put(running, &id, id.as_bytes()).await;
    }
    let oauth = spec("oauth", "1.0.0");
    running
        .insert_definition(&oauth, Some(SecretString::from("client")), audit(AuditAction::DefinitionCreated))
        .await
        .expect("inserted");
    let read_before = running.credential(&instance_id("i0")).await.expect("read").expect("there");
    assert_eq!(running.keys_in_use().await.expect("counted"), [("k1".to_owned(), 8)]);

    MasterKeys::rotate_file(&harness.key_file()).expect("rotated");
    let keys = MasterKeys::from_file(&harness.key_file()).expect("keys");
    let rotating = Store::open(StoreOptions { keys: keys.into(), ..harness.options() }).await.expect("opened");
    let first_page = tokio::sync::Notify::new();
    tokio::select! {
        biased;
        () = first_page.notified() => {}
        _ = rotating.rewrap(2, |_, _| first_page.notify_one()) => {}
    }
    let in_use = rotating.keys_in_use().await.expect("counted");
    assert_eq!(in_use.len(), 2, "stopped midway: {in_use:?}");

    let mut told = Vec::new();
    let report = rotating.rewrap(2, |done, total| told.push((done, total))).await.expect("rewrapped");
    assert!(report.already >= 2, "{report:?}");
    // A page that the stopped one had begun may be committed meanwhile, and is not counted here.
    assert!(told.last().is_some_and(|(done, total)| done <= total), "{told:?}");
    assert_eq!(rotating.keys_in_use().await.expect("counted"), [("k2".to_owned(), 8)]);
    let report = rotating.rewrap(2, |_, _| {}).await.expect("rewrapped");
    assert_eq!(report, RewrapReport { rewrapped: 0, already: 8 });
    rotating.close().await;

    // The running service meets the new key in the rows and reads its file again.
    assert_eq!(running.vault().active_key_id().await.expect("a key"), "k1");
    for number in 0..5 {
        let id = format!("i{number}");
        assert_eq!(open(running, &id).await.expect("opened"), id.as_bytes());
    }
    assert_eq!(running.vault().active_key_id().await.expect("a key"), "k2");
    assert_eq!(running.open_credential(&read_before).await.expect("opened").as_slice(), b"i0");
    let secret = running.definition_client_secret(&oauth.id, &oauth.version).await.expect("read").expect("a secret");
    assert_eq!(secret.expose_secret(), "client");
    assert_eq!(running.keys_in_use().await.expect("counted"), [("k2".to_owned(), 8)]);

    // The old key can go.
    let file = std::fs::read_to_string(harness.key_file()).expect("read");
    let keys = MasterKeys::parse(file.lines().next().expect("a line")).expect("keys");
    Store::open(StoreOptions { keys: keys.into(), ..harness.options() }).await.expect("opened").close().await;
}

async fn wrong_master_keys_are_refused_at_opening(harness: &Harness) {
    let other = MasterKeys::parse(&MasterKeys::generate_line("k1").expect("a line")).expect("keys");
    let refused = Store::open(StoreOptions { keys: other.into(), ..harness.options() }).await;
    assert!(matches!(refused, Err(StoreError::Vault(VaultError::DoesNotOpen { .. }))));
    let other = MasterKeys::parse(&MasterKeys::generate_line("k2").expect("a line")).expect("keys");
    let refused = Store::open(StoreOptions { keys: other.into(), ..harness.options() }).await.expect_err("refused");
    assert!(refused.to_string().contains("\"k1\""), "{refused}");
}
