use integration_model::audit::AuditAction;
use integration_model::definition::{AuthType, DefinitionStatus};
use integration_model::page::PageRequest;
use integration_store::{AdapterDemand, DefinitionFilter, DefinitionSort, SortField, StoreError};
use secrecy::{ExposeSecret, SecretString};
use semver::Version;
use serde_json::json;

use crate::fixtures::{add_instance, audit, publish_petshop, spec, tenant};
use crate::harness::{DAY, Harness, on_both};

on_both!(
    a_version_lives_from_draft_to_archive,
    a_draft_that_changed_since_it_was_read_is_not_published,
    a_draft_keeps_its_client_secret_unless_another_comes,
    the_latest_version_is_so_by_semver,
    a_list_gives_the_newest_version_that_passes,
    hostile_text_in_filters_finds_nothing_it_should_not,
    a_version_with_instances_is_not_deleted,
    versions_that_may_lack_an_adapter_are_found,
    instances_are_counted_by_their_adapter,
);

async fn a_version_lives_from_draft_to_archive(harness: &Harness) {
    use DefinitionStatus::{Archived, Deprecated, Draft, Published};
    let store = &harness.store;
    let spec = spec("petshop", "1.0.0");
    let draft = store.insert_definition(&spec, None, audit(AuditAction::DefinitionCreated)).await.expect("inserted");
    assert_eq!((draft.status, draft.published_at), (Draft, None));
    assert!(matches!(
        store.insert_definition(&spec, None, audit(AuditAction::DefinitionCreated)).await,
        Err(StoreError::AlreadyExists { .. })
    ));

    let (id, version) = (&spec.id, &spec.version);
    let published = store
        .set_definition_status(&draft, Published, audit(AuditAction::DefinitionPublished))
        .await
        .expect("published");
    assert!(matches!(
        store.set_definition_status(&draft, Published, audit(AuditAction::DefinitionPublished)).await,
        Err(StoreError::Conflict(_))
    ));
    assert_eq!(published.published_at, Some(harness.clock.now()));
    assert!(matches!(
        store.update_draft(&spec, None, audit(AuditAction::DefinitionUpdated)).await,
        Err(StoreError::Conflict(_))
    ));
    assert!(matches!(
        store.delete_draft(id, version, audit(AuditAction::DefinitionDeleted)).await,
        Err(StoreError::Conflict(_))
    ));

    harness.clock.advance(DAY);
    let deprecated = store
        .set_definition_status(&published, Deprecated, audit(AuditAction::DefinitionPublished))
        .await
        .expect("deprecated");
    let again = store
        .set_definition_status(&deprecated, Published, audit(AuditAction::DefinitionPublished))
        .await
        .expect("published again");
    assert_eq!(again.published_at, published.published_at);
    let deprecated = store
        .set_definition_status(&again, Deprecated, audit(AuditAction::DefinitionPublished))
        .await
        .expect("deprecated");
    store
        .set_definition_status(&deprecated, Archived, audit(AuditAction::DefinitionPublished))
        .await
        .expect("archived");
    let stored = store.definition(id, version).await.expect("read").expect("there");
    assert_eq!((stored.status, &stored.spec), (Archived, &spec));

    let other = Version::new(9, 0, 0);
    assert!(store.definition(id, &other).await.expect("read").is_none());
    assert!(matches!(
        store.delete_draft(id, &other, audit(AuditAction::DefinitionDeleted)).await,
        Err(StoreError::NotFound)
    ));
    let mut missing = draft;
    missing.spec.version = other;
    assert!(matches!(
        store.set_definition_status(&missing, Published, audit(AuditAction::DefinitionPublished)).await,
        Err(StoreError::NotFound)
    ));
}

async fn a_draft_that_changed_since_it_was_read_is_not_published(harness: &Harness) {
    let store = &harness.store;
    let spec = spec("petshop", "1.0.0");
    let read = store.insert_definition(&spec, None, audit(AuditAction::DefinitionCreated)).await.expect("inserted");
    harness.clock.advance(DAY);
    let changed = store.update_draft(&spec, None, audit(AuditAction::DefinitionUpdated)).await.expect("updated");
    let refused =
        store.set_definition_status(&read, DefinitionStatus::Published, audit(AuditAction::DefinitionPublished)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(message)) if message.contains("meanwhile")));
    store
        .set_definition_status(&changed, DefinitionStatus::Published, audit(AuditAction::DefinitionPublished))
        .await
        .expect("published");
}

async fn a_draft_keeps_its_client_secret_unless_another_comes(harness: &Harness) {
    let store = &harness.store;
    let mut document = serde_json::to_value(spec("oauth", "1.0.0")).expect("JSON");
    document["authType"] = json!("oauth2");
    document["oauth2Config"] = json!({"clientId": "client", "clientSecret": "inside"});
    let mut spec = integration_model::definition::DefinitionSpec::from_json(document).expect("a definition");
    let secret = |text: &str| Some(SecretString::from(text));
    let (id, version) = (spec.id.clone(), spec.version.clone());
    let read = async || store.definition_client_secret(&id, &version).await.expect("read");

    let draft =
        store.insert_definition(&spec, secret("first"), audit(AuditAction::DefinitionCreated)).await.expect("inserted");
    assert!(draft.spec.oauth2_config.expect("a config").client_secret.is_none());
    assert_eq!(read().await.expect("a secret").expose_secret(), "first");
    "renamed".clone_into(&mut spec.name);
    let updated = store.update_draft(&spec, None, audit(AuditAction::DefinitionUpdated)).await.expect("updated");
    assert_eq!(updated.spec.name, "renamed");
    assert_eq!(read().await.expect("a secret").expose_secret(), "first");
    store.update_draft(&spec, secret("second"), audit(AuditAction::DefinitionUpdated)).await.expect("updated");
    assert_eq!(read().await.expect("a secret").expose_secret(), "second");

    // Sealed for this version: under another one it does not open.
    harness.tamper("update definitions set version = '1.0.1'").await;
    assert!(matches!(
        store.definition_client_secret(&spec.id, &Version::new(1, 0, 1)).await,
        Err(StoreError::Vault(_))
    ));
    harness.tamper("update definitions set version = '1.0.0'").await;
    store.delete_draft(&spec.id, &spec.version, audit(AuditAction::DefinitionDeleted)).await.expect("deleted");
    assert!(read().await.is_none());
}

async fn the_latest_version_is_so_by_semver(harness: &Harness) {
    use DefinitionStatus::{Draft, Published};
    let store = &harness.store;
    for version in ["1.9.0", "1.10.0", "1.10.1-rc.2", "1.10.1-rc.10"] {
        store
            .insert_definition(&spec("petshop", version), None, audit(AuditAction::DefinitionCreated))
            .await
            .expect(version);
    }
    let id = spec("petshop", "1.9.0").id;
    for version in ["1.9.0", "1.10.0"] {
        let draft = store.definition(&id, &version.parse().expect("a version")).await.expect("read").expect("there");
        store
            .set_definition_status(&draft, Published, audit(AuditAction::DefinitionPublished))
            .await
            .expect("published");
    }
    let latest = async |statuses: &[DefinitionStatus]| {
        let latest = store.latest_definition(&id, statuses).await.expect("read");
        latest.map(|definition| definition.spec.version.to_string())
    };
    assert_eq!(latest(&[Published]).await.as_deref(), Some("1.10.0"));
    assert_eq!(latest(&[Draft, Published]).await.as_deref(), Some("1.10.1-rc.10"));
    assert_eq!(latest(&[]).await.as_deref(), Some("1.10.1-rc.10"));
    assert_eq!(latest(&[DefinitionStatus::Archived]).await, None);
    let versions = store.definition_versions(&id).await.expect("read");
    let versions: Vec<&str> = versions.iter().map(|summary| summary.version.as_str()).collect();
    assert_eq!(versions, ["1.10.1-rc.10", "1.10.1-rc.2", "1.10.0", "1.9.0"]);
}

async fn a_list_gives_the_newest_version_that_passes(harness: &Harness) {
    use DefinitionStatus::Published;
    let store = &harness.store;
    for (id, version) in [("a", "1.0.0"), ("a", "2.0.0"), ("b", "1.0.0"), ("c", "1.0.0")] {
        let mut spec = spec(id, version);
        spec.labels.insert("team".to_owned(), if id == "c" { "two" } else { "one" }.to_owned());
        if id == "b" {
            spec.auth_type = AuthType::None;
        }
        store.insert_definition(&spec, None, audit(AuditAction::DefinitionCreated)).await.expect("inserted");
    }
    let id = spec("a", "1.0.0").id;
    let draft = store.definition(&id, &Version::new(1, 0, 0)).await.expect("read").expect("there");
    store.set_definition_status(&draft, Published, audit(AuditAction::DefinitionPublished)).await.expect("published");
    let list = async |filter: DefinitionFilter, page: PageRequest, sort: DefinitionSort| {
        let (items, total) = store.list_definitions(&filter, page, sort).await.expect("listed");
        let items: Vec<String> = items.iter().map(|item| format!("{} {}", item.id, item.version)).collect();
        (items, total)
    };
    let all = PageRequest::default();
    let by_id = DefinitionSort { field: SortField::Id, descending: true };
    let (items, total) = list(DefinitionFilter::default(), all, by_id).await;
    assert_eq!((items, total), (vec!["c 1.0.0".to_owned(), "b 1.0.0".to_owned(), "a 2.0.0".to_owned()], 3));
    let published = DefinitionFilter { status: Some(Published), ..DefinitionFilter::default() };
    assert_eq!(list(published, all, by_id).await, (vec!["a 1.0.0".to_owned()], 1));
    let second = PageRequest { page: 2, limit: 2 };
    for field in [SortField::Name, SortField::Id, SortField::CreatedAt, SortField::UpdatedAt] {
        let sort = DefinitionSort { field, descending: field == SortField::Id };
        let (items, total) = list(DefinitionFilter::default(), second, sort).await;
        assert_eq!((items.len(), total), (1, 3), "{field:?}");
    }
    let filter = DefinitionFilter {
        adapter_type: Some("http".to_owned()),
        auth_type: Some(AuthType::ApiKey),
        labels: vec![("team".to_owned(), "one".to_owned())],
        q: Some("NAME OF".to_owned()),
        ..DefinitionFilter::default()
    };
    assert_eq!(list(filter, all, DefinitionSort::default()).await, (vec!["a 2.0.0".to_owned()], 1));
}

async fn hostile_text_in_filters_finds_nothing_it_should_not(harness: &Harness) {
    let store = &harness.store;
    let mut named = spec("x", "1.0.0");
    "100% Größe_\\".clone_into(&mut named.name);
    store.insert_definition(&named, None, audit(AuditAction::DefinitionCreated)).await.expect("inserted");
    let found = async |q: &str| {
        let filter = DefinitionFilter { q: Some(q.to_owned()), ..DefinitionFilter::default() };
        let page = PageRequest::default();
        store.list_definitions(&filter, page, DefinitionSort::default()).await.expect("listed").1
    };
    for q in ["100%", "GRÖ", "e_\\", ""] {
        assert_eq!(found(q).await, 1, "{q}");
    }
    for q in ["100_", "%z", "' or 1=1 --", "\0", "\\\\"] {
        assert_eq!(found(q).await, 0, "{q}");
    }
    assert_eq!(found(&"%".repeat(100_000)).await, 0);
    let far = PageRequest { page: u32::MAX, limit: 200 };
    let (items, total) =
        store.list_definitions(&DefinitionFilter::default(), far, DefinitionSort::default()).await.expect("listed");
    assert_eq!((items.len(), total), (0, 1));
}

async fn a_version_with_instances_is_not_deleted(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    let spec = spec("petshop", "1.0.0");
    add_instance(store, "i1").await;
    assert_eq!(store.count_instances_of(&spec.id, None).await.expect("counted"), 1);
    assert_eq!(store.count_instances_of(&spec.id, Some(&spec.version)).await.expect("counted"), 1);
    assert_eq!(store.count_instances_of(&spec.id, Some(&Version::new(2, 0, 0))).await.expect("counted"), 0);
    harness.tamper("update definitions set status = 'DRAFT'").await;
    assert!(matches!(
        store.delete_draft(&spec.id, &spec.version, audit(AuditAction::DefinitionDeleted)).await,
        Err(StoreError::Conflict(_))
    ));
}

async fn versions_that_may_lack_an_adapter_are_found(harness: &Harness) {
    use DefinitionStatus::{Deprecated, Published};
    let store = &harness.store;
    let add = async |id: &str, adapter_type: &str, range: Option<&str>, statuses: &[DefinitionStatus]| {
        let mut spec = spec(id, "1.0.0");
        spec.adapter_type = adapter_type.to_owned();
        spec.adapter_version = range.map(|range| range.parse().expect("a range"));
        let mut stored =
            store.insert_definition(&spec, None, audit(AuditAction::DefinitionCreated)).await.expect("inserted");
        for status in statuses {
            let audit = audit(AuditAction::DefinitionPublished);
            stored = store.set_definition_status(&stored, *status, audit).await.expect("a change of status");
        }
    };
    add("asks", "http", Some(">=1.0, <2"), &[Published]).await;
    add("draft", "http", Some(">=1.0, <2"), &[]).await;
    add("elsewhere", "pigeon", None, &[Published, Deprecated]).await;
    add("usual", "http", None, &[Published]).await;
    let found = async |types: &[&str], limit| {
        let found = store.adapter_demands(types, limit).await.expect("versions");
        let in_short = |demand: AdapterDemand| {
            let range = demand.adapter_version.unwrap_or_default();
            format!("{} {} {} {range}", demand.definition_id, demand.version, demand.adapter_type)
        };
        found.into_iter().map(in_short).collect::<Vec<_>>()
    };
    assert_eq!(found(&["http", "webhook"], 10).await, ["asks 1.0.0 http >=1.0, <2", "elsewhere 1.0.0 pigeon "]);
    assert_eq!(found(&["http", "pigeon"], 10).await, ["asks 1.0.0 http >=1.0, <2"]);
    assert_eq!(
        found(&["webhook"], 2).await,
        ["asks 1.0.0 http >=1.0, <2", "elsewhere 1.0.0 pigeon "],
        "no more than asked for"
    );
}

async fn instances_are_counted_by_their_adapter(harness: &Harness) {
    let store = &harness.store;
    publish_petshop(store).await;
    for id in ["one", "two"] {
        add_instance(store, id).await;
    }
    let counts = store.count_instances_by_type(None).await.expect("counts");
    let [(adapter_type, _, 2)] = counts.as_slice() else { panic!("{counts:?}") };
    assert_eq!(adapter_type, &spec("petshop", "1.0.0").adapter_type);
    assert_eq!(store.count_instances_by_type(Some(&tenant("acme"))).await.expect("counts"), counts);
    assert_eq!(store.count_instances_by_type(Some(&tenant("stranger"))).await.expect("counts"), []);
}
