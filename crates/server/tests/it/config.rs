//! Configuration: sources, precedence, faults.

use std::path::Path;

use integration_service::config::watch::RateLimitsWatcher;
use integration_service::config::{
    Config, ConfigErrors, Environment, Flags, Loaded, LogLevel, MasterKeySource, Origin, read_definition,
};
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn load(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let folder = folder(files);
    load_from(folder.path(), variables)
}

fn load_from(folder: &Path, variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let flags = Flags { config_dir: Some(folder.to_owned()), ..Flags::default() };
    Config::load(&flags, &variables.iter().copied().collect::<Environment>())
}

/// Faults as `file:line:column: path: message`, without the folder.
fn faults(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Vec<String> {
    let folder = folder(files);
    let errors = load_from(folder.path(), variables).err().map(|errors| errors.to_string()).unwrap_or_default();
    let prefix = format!("{}/", folder.path().display());
    errors.lines().map(|line| line.replace(&prefix, "")).collect()
}

#[test]
fn nothing_configured_is_the_commented_defaults() {
    let loaded = load(&[], &[]).unwrap();
    let config = loaded.config;
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    assert_eq!((config.server.host.as_str(), config.server.port), ("127.0.0.1", 8002));
    assert_eq!(config.database_url().expose(), "sqlite://./data/integration.db");
    assert!(matches!(config.master_key_source(), MasterKeySource::DataDirFile(file) if file.ends_with("master.key")));
    let breaker = &config.execution.circuit_breaker;
    assert_eq!((breaker.failure_threshold, breaker.window_ms), (5, 20_000));
    assert!(loaded.warnings.is_empty() && loaded.integrations.instances.is_empty());
}

#[test]
fn flags_win_over_environment_over_files_over_defaults() {
    let folder = folder(&[(
        "integration_service.yaml",
        "server:\n  port: 1000\n  workers: 3\n  maxConnections: 7\nlog:\n  # level: debug\nhttp:\n  egressAllow: [a.example]\n",
    )]);
    let flags = Flags { config_dir: Some(folder.path().to_owned()), port: Some(3000), ..Flags::default() };
    let environment: Environment = [
        ("INTEGRATION_SERVICE_PORT", "2000"),
        ("INTEGRATION_SERVICE_HOST", "::1"),
        ("INTEGRATION_SERVICE_DATA_DIR", "/var/lib/integration"),
        ("INTEGRATION_SERVICE_EGRESS_ALLOW", "10.0.0.0/8, *.internal"),
        ("INTEGRATION_SERVICE_COORDINATION", ""),
        ("LOG_LEVEL", "WARNING"),
    ]
    .into_iter()
    .collect();
    let config = Config::load(&flags, &environment).unwrap().config;
    assert_eq!((config.server.port, config.server.workers, config.server.max_connections), (3000, 3, 7));
    assert_eq!(config.server.address().unwrap().to_string(), "[::1]:3000");
    assert_eq!(config.http.egress_allow, ["10.0.0.0/8", "*.internal"]);
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.database_url().expose(), "sqlite:///var/lib/integration/integration.db");
}

#[test]
fn debug_lowers_the_level_and_no_further() {
    let level = |variables: &[(&str, &str)]| load(&[], variables).unwrap().config.log.level;
    assert_eq!(level(&[("INTEGRATION_SERVICE_DEBUG", "true"), ("LOG_LEVEL", "ERROR")]), LogLevel::Debug);
    assert_eq!(level(&[("INTEGRATION_SERVICE_DEBUG", "1"), ("LOG_LEVEL", "trace")]), LogLevel::Trace);
    assert_eq!(level(&[("INTEGRATION_SERVICE_DEBUG", "false")]), LogLevel::Info);
}

#[test]
fn every_fault_of_every_source_is_reported_with_its_place() {
    let found = faults(
        &[
            (
                "integration_service.yaml",
                "server:\n  prot: 1\n  port: high\n  maxRequestBytes: -1\nlog: {level: loud}\nhttp:\n  egressAllow: 5\nextra: 1\n",
            ),
            (
                "integrations.yaml",
                "instances:\n  - id: a b\n    integrationDefinitionId: x\n    colour: red\n  - name: no id\n  - {id: ok, integrationDefinitionId: x, credential: {type: magic, data: {}}}\nmore: []\n",
            ),
            (
                "rate_limits.yaml",
                "tenants:\n  default:\n    requestsPerMinute: 0\n  byId:\n    t1: {burstLimit: 1}\nusers: []\n",
            ),
        ],
        &[("INTEGRATION_SERVICE_DEBUG", "maybe"), ("INTEGRATION_SERVICE_PORT", "70000")],
    );
    let expected = [
        "integration_service.yaml:2:3: /server/prot: unknown key; expected one of host, port,",
        "integration_service.yaml:4:3: /server/maxRequestBytes: expected a whole number, 0 or more, found a number",
        "integration_service.yaml:5:7: /log/level: expected error, warn, info, debug or trace",
        "integration_service.yaml:7:3: /http/egressAllow: expected an array, found a number",
        "integration_service.yaml:8:1: /extra: unknown key;",
        "integrations.yaml:2:5: /instances/0/id: expected 1 to 64 characters",
        "integrations.yaml:4:5: /instances/0/colour: unknown key;",
        "integrations.yaml:5:5: /instances/1: expected the key id",
        "integrations.yaml:6:55: /instances/2/credential/type: expected one of none, basic, api_key,",
        "integrations.yaml:7:1: /more: unknown key; expected one of definitions, instances",
        "rate_limits.yaml:6:1: /users: expected an object, found an array",
        "INTEGRATION_SERVICE_DEBUG: expected true or false",
        "INTEGRATION_SERVICE_PORT: expected a whole number from 0 to 65535, found a number",
    ];
    for line in expected {
        assert!(found.iter().any(|fault| fault.starts_with(line)), "{line}\nis not in\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), expected.len(), "{}", found.join("\n"));
}

#[test]
fn rules_between_settings_are_reported_where_they_are_broken() {
    let found = faults(
        &[(
            "integration_service.yaml",
            "server:\n  host: 0.0.0.0\n  maxConnections: 0\nhttp:\n  egressAllow:\n    - 10.0.0.0/8\n    - not a host\nexecution:\n  defaultTimeoutMs: 5000\n  maxTimeoutMs: 1000\n  retry: {maxRetries: 99}\n",
        )],
        &[
            ("INTEGRATION_SERVICE_EVENT_BUS", "redis://user:hunter2@host"),
            ("INTEGRATION_SERVICE_COORDINATION", "redis://host"),
            ("INTEGRATION_SERVICE_DATABASE_URL", "mysql://user:hunter2@host/x"),
            ("INTEGRATION_SERVICE_ADMIN_KEY", "hunter2"),
        ],
    );
    let expected = [
        "integration_service.yaml:2:3: /server/host: expected a loopback address:",
        "integration_service.yaml:3:3: /server/maxConnections: expected 1 to 1000000",
        "integration_service.yaml:7:7: /http/egressAllow/1: expected a CIDR",
        "integration_service.yaml:9:3: /execution/defaultTimeoutMs: expected 1 to 1000",
        "integration_service.yaml:11:11: /execution/retry/maxRetries: expected 0 to 20",
        "INTEGRATION_SERVICE_EVENT_BUS: not supported by this version: expected embedded",
        "INTEGRATION_SERVICE_COORDINATION: not supported by this version: expected local",
        "INTEGRATION_SERVICE_DATABASE_URL: expected sqlite://",
        "INTEGRATION_SERVICE_ADMIN_KEY: expected 20 to 512 visible ASCII characters",
    ];
    for line in expected {
        assert!(found.iter().any(|fault| fault.starts_with(line)), "{line}\nis not in\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), expected.len(), "{}", found.join("\n"));
    assert!(!found.join("\n").contains("hunter2"));
}

#[test]
fn beyond_loopback_a_proxy_must_be_vouched_for() {
    let text = "server: {host: 0.0.0.0, tlsTerminatedByProxy: true}";
    assert!(load(&[("integration_service.yaml", text)], &[]).is_ok());
    assert!(faults(&[], &[("INTEGRATION_SERVICE_HOST", "::")])[0].contains("tlsTerminatedByProxy"));
    assert!(load(&[], &[("INTEGRATION_SERVICE_HOST", "localhost")]).is_ok());
    assert!(load(&[], &[("INTEGRATION_SERVICE_HOST", "example.com")]).is_err());
}

#[test]
fn a_key_service_stands_for_a_master_key_unless_it_only_decrypts() {
    let url = ("INTEGRATION_SERVICE_DATABASE_URL", "postgres://db/x");
    let address = ("INTEGRATION_SERVICE_TRANSIT_ADDRESS", "https://vault.example:8200");
    let loaded = load(&[], &[url, address]).unwrap();
    let transit = loaded.config.vault.wrapping_transit().unwrap();
    assert_eq!((transit.address(), transit.mount.as_str()), ("https://vault.example:8200", "transit"));
    let decrypts = [("integration_service.yaml", "vault: { transit: { decryptOnly: true } }")];
    assert!(faults(&decrypts, &[url, address])[0].contains("PostgreSQL needs a master key"));
    assert!(load(&decrypts, &[url, address, ("INTEGRATION_SERVICE_MASTER_KEY", "k")]).is_ok());
    assert!(load(&[], &[address]).unwrap().config.vault.transit().is_some());
    assert!(load(&[], &[]).unwrap().config.vault.transit().is_none());
}

#[test]
fn services_that_keep_secrets_are_reached_over_tls_or_loopback_alone() {
    let expected = "expected an https URL without user, query and fragment (http on loopback alone)";
    for url in [
        "http://vault.example",
        "http://10.0.0.1:8200",
        "https://u:p@vault.example",
        "https://v.example/?a=b",
        "ftp://v",
        "vault",
    ] {
        let told = faults(&[], &[("INTEGRATION_SERVICE_TRANSIT_ADDRESS", url)]);
        assert_eq!(told, [format!("INTEGRATION_SERVICE_TRANSIT_ADDRESS: {expected}")], "{url}");
        let told = faults(&[], &[("INTEGRATION_SERVICE_CREDENTIAL_STORE_URL", url)]);
        assert_eq!(told, [format!("INTEGRATION_SERVICE_CREDENTIAL_STORE_URL: {expected}")], "{url}");
    }
    for url in ["https://vault.example", "http://127.0.0.1:8200", "http://localhost/base", "http://[::1]:1"] {
        assert!(load(&[], &[("INTEGRATION_SERVICE_TRANSIT_ADDRESS", url)]).is_ok(), "{url}");
    }
}

#[test]
fn settings_of_services_that_keep_secrets_have_to_fit_together() {
    let file = "vault:
  transit: { key: a/b, mount: /transit/, token: t, tokenFile: /t, timeoutMs: 0 }
  fallback: { freshMs: 10, maxAgeMs: 5, maxEntries: 0 }
credentialStore: { kind: http, token: t, tokenFile: /t, clientKeyFile: /k, timeoutMs: 100000 }
";
    let told = faults(&[("integration_service.yaml", file)], &[]).join("\n");
    for pointer in [
        "/vault/transit/key",
        "/vault/transit/mount",
        "/vault/transit/tokenFile",
        "/vault/transit/timeoutMs",
        "/vault/fallback/maxAgeMs",
        "/vault/fallback/maxEntries",
        "/credentialStore/url",
        "/credentialStore/tokenFile",
        "/credentialStore/clientCertificateFile",
        "/credentialStore/timeoutMs",
    ] {
        assert!(told.contains(&format!("{pointer}: expected")), "{pointer}: {told}");
    }
    assert_eq!(told.lines().count(), 10, "{told}");
    let kind = faults(&[], &[("INTEGRATION_SERVICE_CREDENTIAL_STORE", "ftp")]);
    assert_eq!(kind, ["INTEGRATION_SERVICE_CREDENTIAL_STORE: expected embedded or http"]);
}

#[test]
fn postgres_wants_a_master_key_and_one_only() {
    let url = ("INTEGRATION_SERVICE_DATABASE_URL", "postgres://u:p@host/db");
    assert!(faults(&[], &[url])[0].contains("INTEGRATION_SERVICE_MASTER_KEY"));
    let loaded = load(&[], &[url, ("INTEGRATION_SERVICE_MASTER_KEY", "12345")]).unwrap();
    assert!(matches!(loaded.config.master_key_source(), MasterKeySource::Env(key) if key.expose() == "12345"));
    let loaded = load(&[], &[url, ("INTEGRATION_SERVICE_MASTER_KEY_FILE", "/k")]).unwrap();
    assert!(matches!(loaded.config.master_key_source(), MasterKeySource::File(file) if file == Path::new("/k")));
    let both = [("INTEGRATION_SERVICE_MASTER_KEY", "k"), ("INTEGRATION_SERVICE_MASTER_KEY_FILE", "/k")];
    assert!(load(&[], &both).is_err());
}

const DEFINITION: &str = r#"{
  "id": "petshop", "name": "Pet shop", "version": "1.0.0", "type": "http", "authType": "api_key",
	"methods": [{"name": "getPet", "operation": {"verb": "GET"}, "responseTransform": "${'a': id}"}]
}"#;

#[test]
fn integrations_take_files_and_references_and_hide_secrets() {
    let loaded = load(
        &[
            ("petshop.json", DEFINITION),
            (
                "integrations.yaml",
                "definitions:\n  - file: petshop.json\n  - {id: b, name: B, version: 2.0.0, type: http, authType: none, methods: [{name: m}]}\n\
                 instances:\n  - id: shop\n    integrationDefinitionId: petshop\n    config: {baseUrl: \"http://${SHOP_HOST:-localhost}/$${x}\", n: 9007199254740993}\n    credential:\n      type: api_key\n      data: {key: \"${SHOP_KEY}\"}\n",
            ),
        ],
        &[("SHOP_KEY", "hunter2: [x")],
    )
    .unwrap();
    let [petshop, b] = loaded.integrations.definitions.as_slice() else { panic!("two definitions") };
    assert_eq!(petshop.methods[0].response_transform.as_deref(), Some("${'a': id}"));
    assert_eq!(b.version.to_string(), "2.0.0");
    let instance = &loaded.integrations.instances[0];
    assert_eq!(instance.config["baseUrl"], "http://localhost/${x}");
    assert_eq!(instance.config["n"], 9_007_199_254_740_993_u64);
    let credential = instance.credential.as_ref().unwrap();
    assert_eq!(credential.data.expose(), r#"{"key":"hunter2: [x"}"#);
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

#[test]
fn a_missing_variable_and_a_missing_file_are_named() {
    let found =
        faults(&[("integrations.yaml", "definitions:\n  - file: none.yaml\ninstances:\n  - id: ${SHOP_ID}\n")], &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("integrations.yaml:4:9: /instances/0/id: the environment variable SHOP_ID"));
    let found = faults(&[("integrations.yaml", "definitions:\n  - file: none.yaml\n")], &[]);
    assert_eq!(found, ["integrations.yaml:2:5: /definitions/0/file: there is no file \"none.yaml\""]);
}

#[test]
fn references_may_stand_for_numbers_and_booleans() {
    let text = "server:\n  port: ${PORT}\n  tlsTerminatedByProxy: ${PROXY}\n  host: ${HOST:-0.0.0.0}\n";
    let loaded = load(&[("integration_service.yaml", text)], &[("PORT", "99"), ("PROXY", "true")]).unwrap();
    assert_eq!(loaded.config.server.port, 99);
    let found = faults(&[("integration_service.yaml", text)], &[("PORT", "hunter2"), ("PROXY", "true")]);
    assert_eq!(
        found,
        ["integration_service.yaml:2:3: /server/port: expected a whole number from 0 to 65535, found a string"]
    );
}

#[test]
fn broken_yaml_says_where_and_hostile_yaml_is_refused() {
    let found = faults(&[("rate_limits.yaml", "tenants:\n  default: {a: [}\n")], &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("rate_limits.yaml:2:"), "{}", found[0]);
    let twice = faults(&[("rate_limits.yaml", "users: {}\nusers: {}\n")], &[]);
    assert!(twice[0].starts_with("rate_limits.yaml:2:1:"), "{}", twice[0]);
    let deep = format!("a: {}", "[".repeat(100_000));
    assert_eq!(faults(&[("rate_limits.yaml", &deep)], &[]).len(), 1);
    let bomb: String =
        (1..30).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))).collect();
    assert_eq!(faults(&[("rate_limits.yaml", &format!("a0: &a0 x\n{bomb}"))], &[]).len(), 1);
    assert_eq!(faults(&[("rate_limits.yaml", "just text")], &[]).len(), 1);
    assert!(load(&[("rate_limits.yaml", "# nothing\n"), ("integrations.yaml", "")], &[]).is_ok());
}

#[test]
fn what_has_no_effect_is_said() {
    let loaded = load(&[], &[("CONSUL_HOST", "x"), ("AUTH0_DOMAIN", "x"), ("INTEGRATION_SERVICE_PROT", "1")]);
    let warnings = loaded.unwrap().warnings;
    assert_eq!(warnings.len(), 3);
    assert!(warnings.iter().any(|warning| warning.starts_with("CONSUL_HOST is set, but is not supported yet")));
    let asks = "AUTH0_DOMAIN is set, but makes no instance: set AUTH0_CLIENT_ID and AUTH0_CLIENT_SECRET too";
    assert!(warnings.iter().any(|warning| warning == asks), "{warnings:?}");
    assert!(
        warnings.iter().any(|warning| warning.starts_with("INTEGRATION_SERVICE_PROT is set, but there is no such"))
    );
}

#[test]
fn variables_of_systems_are_checked_and_leave_what_the_file_says() {
    let systems = |environment: &[(&str, &str)]| {
        let loaded = load(&[], environment).unwrap();
        loaded.integrations.systems.into_iter().map(|system| system.instance).collect::<Vec<_>>()
    };
    let all = systems(&[
        ("AUTH0_DOMAIN", "your-domain.auth0.com"),
        ("AUTH0_CLIENT_ID", "your-client-id"),
        ("AUTH0_CLIENT_SECRET", "your-client-secret"),
        ("POSTGRESQL_URL", "postgresql://ann:p%40ss@[::1]/data%20base?sslmode=require&application_name=x"),
        ("REDIS_URL", "redis://localhost:6379"),
        ("STRIPE_SECRET_KEY", "sk_test_..."),
        ("STRIPE_PUBLISHABLE_KEY", "pk_test_..."),
        ("STRIPE_WEBHOOK_SECRET", "whsec_..."),
        ("EMAIL_SERVICE_API_KEY", "your-email-api-key"),
        ("STORAGE_SERVICE_ACCESS_KEY", "your-storage-access-key"),
        ("STORAGE_SERVICE_PROVIDER", "azure"),
        ("STORAGE_SERVICE_ACCOUNT", "acme"),
        ("STORAGE_SERVICE_BUCKET", "files"),
    ]);
    let ids: Vec<&str> = all.iter().map(|instance| instance.id.as_str()).collect();
    assert_eq!(ids, ["auth0", "postgresql", "redis", "stripe", "stripe-webhook", "email", "storage"]);
    let database =
        serde_json::json!({"host": "::1", "port": 5432, "database": "data base", "tls": {"mode": "verify-full"}});
    assert_eq!(serde_json::Value::from(all[1].config.clone()), database);
    assert!(all[1].credential.as_ref().unwrap().data.expose().contains(r#""p@ss""#));
    assert!(all[2].credential.as_ref().unwrap().data.expose().contains(r#""default""#));

    let secret = "a-secret-mark-0d2f";
    for (name, value) in [
        ("POSTGRESQL_URL", "mysql://ann:a-secret-mark-0d2f@db.example/data"),
        ("POSTGRESQL_URL", "postgresql://db.example/data"),
        ("POSTGRESQL_URL", "postgresql://ann:a-secret-mark-0d2f@db.example"),
        ("POSTGRESQL_URL", "postgresql://ann:a-secret-mark-0d2f@one.example,two.example/data"),
        ("POSTGRESQL_URL", "postgresql://ann:a-secret-mark-0d2f@db.example/data?sslmode=no"),
        ("REDIS_URL", "cache.example:6379"),
        ("REDIS_URL", "redis://:a-secret-mark-0d2f@cache.example/x"),
        ("STRIPE_SECRET_KEY", "pk_a-secret-mark-0d2f"),
        ("EMAIL_SERVICE_API_KEY", "a-secret-mark-0d2f and more"),
        ("STRIPE_WEBHOOK_SECRET", "a-secret-mark-0d2f"),
    ] {
        let faults = faults(&[], &[(name, value)]);
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("{name}: expected ")), "{value}: {faults:?}");
        assert!(!faults[0].contains(secret), "{faults:?}");
    }

    let file = "instances: [{id: redis, integrationDefinitionId: redis, config: {host: ours.example}}]\n";
    let loaded = load(&[("integrations.yaml", file)], &[("REDIS_URL", "redis://theirs.example")]).unwrap();
    assert!(loaded.integrations.systems.is_empty());
    assert_eq!(loaded.warnings, ["REDIS_URL has no effect: integrations.yaml describes instance redis"]);
}

#[test]
fn a_configuration_folder_that_is_asked_for_must_exist() {
    let flags = Flags { config_dir: Some("/no/such/folder".into()), ..Flags::default() };
    let errors = Config::load(&flags, &Environment::default()).unwrap_err();
    assert_eq!(errors.faults()[0].origin, Origin::Flag("--config-dir"));
}

#[test]
fn a_definition_file_is_checked_with_places() {
    let folder = folder(&[
        ("good.json", DEFINITION),
        ("bad.yaml", "id: x\nname: X\nversion: one\ntype: http\nauthType: none\nmethods:\n  - name: a b\n"),
    ]);
    assert!(read_definition(&folder.path().join("good.json")).is_ok());
    let errors = read_definition(&folder.path().join("bad.yaml")).unwrap_err();
    assert!(errors.to_string().contains("bad.yaml:3:1: /version: "), "{errors}");
}

#[test]
fn limits_are_reloaded_when_they_are_right_and_kept_when_they_are_wrong() {
    let folder = folder(&[("rate_limits.yaml", "tenants: {default: {requestsPerMinute: 1}}")]);
    let file = folder.path().join("rate_limits.yaml");
    let first = load_from(folder.path(), &[]).unwrap().rate_limits;
    let (mut watcher, limits) = RateLimitsWatcher::new(folder.path().to_owned(), Environment::default(), first);
    let current = || limits.borrow().tenants.default.unwrap().requests_per_minute.unwrap();
    assert!(!watcher.poll(false).unwrap());
    std::fs::write(&file, "tenants: {default: {requestsPerMinute: 200}}").unwrap();
    assert!(watcher.poll(false).unwrap());
    assert_eq!(current(), 200);
    std::fs::write(&file, "tenants: {default: {requestsPerMinute: many}}").unwrap();
    assert!(watcher.poll(false).is_err());
    assert_eq!(current(), 200);
    assert!(!watcher.poll(false).unwrap(), "a wrong file is reported once");
    assert!(watcher.poll(true).is_err(), "a signal asks again");
}

#[test]
fn faults_of_access_are_told_with_their_places() {
    let issuer = "name: corp, issuer: i, audience: a";
    let good = format!(
        "access: {{jwt: [{{{issuer}, jwksUrl: \"https://i.example/jwks\", algorithms: [ES256], claims: {{tenant: /t, roles: /r}}}}]}}\n"
    );
    assert_eq!(faults(&[("integration_service.yaml", &good)], &[]), Vec::<String>::new());
    let told = |text: &str| faults(&[("integration_service.yaml", text)], &[]).join("\n");
    for (from, to, expected) in [
        ("https://i.example/jwks", "http://i.example/jwks", "/access/jwt/0/jwksUrl: expected an https URL"),
        ("[ES256]", "[ES256, HS256]", "/access/jwt/0/algorithms: expected HS algorithms with a sharedKey, and none"),
        ("[ES256]", "[]", "/access/jwt/0/algorithms: expected HS"),
        ("[ES256]", "[none]", "/access/jwt/0/algorithms/0: expected"),
        ("[ES256]", "[ES256], sharedKey: x", "/access/jwt/0/jwksUrl: expected exactly one"),
        ("[ES256]", "[ES256], jwksMaxStaleSeconds: 10", "/access/jwt/0/jwksMaxStaleSeconds: expected no less"),
        ("tenant: /t, ", "", "/access/jwt/0/defaultTenant: expected a tenant"),
        (", roles: /r", "", "/access/jwt/0/defaultRoles: expected roles"),
        ("roles: /r", "roles: r", "/access/jwt/0/claims/roles: expected a JSON Pointer"),
        ("issuer: i", "isuer: i", "/access/jwt/0/isuer: unknown key"),
    ] {
        let told = told(&good.replace(from, to));
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let twice =
        good.replace("[{", &format!("[{{{issuer}, sharedKey: short, algorithms: [HS256], defaultTenant: a b}}, {{"));
    let told_twice = told(&twice);
    for expected in
        ["/access/jwt/0/sharedKey", "/access/jwt/0/defaultTenant", "/access/jwt/1/name", "/access/jwt/1/issuer"]
    {
        assert!(told_twice.contains(expected), "{expected}: {told_twice}");
    }
    let services = "access: {services: [{san: a, name: b}]}\n";
    let told = told(services);
    for expected in ["/access/services: callers show", "/access/services/0/san: expected a name in its certificate"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
}
