//! Authorization servers differ: what a definition says of them, and what is found out.

use super::*;

/// One system's way of giving tokens.
struct Quirk {
    name: &'static str,
    config: Value,
    /// Whether the request is as the system wants it.
    wants: fn(&Received) -> bool,
    answer: fn() -> Response,
    /// The expiry from now in seconds, and the scope, that have to come of it.
    expires_in: Option<i64>,
    scope: &'static str,
}

fn text(body: &'static str, content_type: &str) -> Response {
    Response::builder().header("content-type", content_type).body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn systems_differ_and_the_definition_says_how() {
    let plain = || json_response(200, &json!({"access_token": ACCESS}));
    let quirks = [
        Quirk {
            name: "the standard",
            config: json!({}),
            wants: |request| {
                form(request)["grant_type"] == "client_credentials"
                    && form(request)["scope"] == "read write"
                    && request.headers.contains_key("authorization")
            },
            answer: || json_response(200, &json!({"access_token": ACCESS, "expires_in": "120", "scope": "read"})),
            expires_in: Some(120),
            scope: "read",
        },
        Quirk {
            name: "the secret in the body, scopes by comma, parameters and headers of its own",
            config: json!({
                "tokenEndpointAuthMethod": "client_secret_post", "scopeSeparator": ",",
                "tokenParameters": {"grant_type": "account_credentials", "account_id": "7"},
                "tokenHeaders": {"X-Version": "2"}, "additionalParameters": {"audience": "api"},
            }),
            wants: |request| {
                let form = form(request);
                (form["client_id"].as_str(), form["client_secret"].as_str()) == ("client:1", SECRET)
                    && form["scope"] == "read,write"
                    && form["grant_type"] == "account_credentials"
                    && form["account_id"] == "7"
                    && form["audience"] == "api"
                    && request.headers["x-version"] == "2"
                    && !request.headers.contains_key("authorization")
            },
            answer: || json_response(200, &json!({"access_token": ACCESS, "scope": "read,write"})),
            expires_in: None,
            scope: "read write",
        },
        Quirk {
            name: "JSON both ways, fields elsewhere, milliseconds",
            config: json!({
                "tokenRequestFormat": "json",
                "tokenResponse": {"accessToken": "/data/token", "expiresIn": "/data/ttl", "expiresInUnit": "milliseconds", "scope": "/data/scopes"},
            }),
            wants: |request| {
                let body: Value = serde_json::from_slice(&request.body).unwrap();
                request.headers["content-type"] == "application/json" && body["grant_type"] == "client_credentials"
            },
            answer: || json_response(200, &json!({"data": {"token": ACCESS, "ttl": 90_000, "scopes": ["a", "b"]}})),
            expires_in: Some(90),
            scope: "a b",
        },
        Quirk {
            name: "a form as the answer, an expiry by default",
            config: json!({"expiresInDefaultMs": 60_000}),
            wants: |_| true,
            answer: || {
                text(
                    "access_token=AccessMark4c2a&scope=read%2Cwrite&token_type=bearer",
                    "application/x-www-form-urlencoded",
                )
            },
            expires_in: Some(60),
            scope: "read,write",
        },
        Quirk {
            name: "a type that is no scheme, JSON called text",
            config: json!({"tokenType": "Bearer", "tokenResponse": {"expiresInUnit": "minutes"}}),
            wants: |_| true,
            answer: || {
                text(r#"{"ok":true,"access_token":"AccessMark4c2a","token_type":"bot","expires_in":2}"#, "text/plain")
            },
            expires_in: Some(120),
            scope: "read write",
        },
        Quirk {
            name: "a tenant in the URL",
            config: json!({"tokenUrl": "{config.baseUrl}/token?x={config.tenant}"}),
            wants: |request| request.path_and_query == "/token?x=t%2F1",
            answer: plain,
            expires_in: None,
            scope: "read write",
        },
    ];
    for Quirk { name, config, wants, answer, expires_in, scope } in quirks {
        let service = TestService::start().await;
        let mut config = config;
        config["grantType"] = json!("client_credentials");
        let mut document = oauth_definition(&service, &config);
        document["defaultConfig"] = json!({"tenant": "t/1"});
        service.instance_of(&document, "mine").await;
        service.upstream.always(move |request| match request.path_and_query.starts_with("/token") {
            true if wants(request) => answer(),
            true => json_response(400, &json!({"error": "invalid_request"})),
            false => json_response(200, &json!({"authorization": request.headers["authorization"].to_str().unwrap()})),
        });
        let connected = service.post(&path("/connect"), &json!({})).await;
        assert_eq!(
            (connected.status, &connected.json()["status"]),
            (200, &json!("CONNECTED")),
            "{name}: {}",
            connected.json()
        );
        let known = service.get(&path("/credentials/status")).await.json();
        assert_eq!(known["scope"], scope, "{name}");
        let lifetime = known["expiresAt"].as_str().map(|at| {
            let (at, stored) =
                (Timestamp::parse(at).unwrap(), Timestamp::parse(known["updatedAt"].as_str().unwrap()).unwrap());
            at.as_secs() - stored.as_secs()
        });
        assert!(
            lifetime.is_none() == expires_in.is_none() && lifetime.unwrap_or(0).abs_diff(expires_in.unwrap_or(0)) <= 2,
            "{name}: {lifetime:?}"
        );
        let executed = service.execute("mine", "call", &json!({})).await.json();
        assert_eq!(executed["data"]["authorization"], format!("Bearer {ACCESS}"), "{name}: {executed}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_whatever_its_shape() {
    let service = service_with(&json!({
        "grantType": "client_credentials", "tokenEndpointAuthMethod": "client_secret_post",
        "tokenResponse": {"error": "/error", "errorDescription": "/reason"},
    }))
    .await;
    for (answer, status, code, told) in [
        (
            json_response(200, &json!({"ok": false, "error": "bad_scope", "reason": "no"})),
            502,
            "AUTH_ERROR",
            "bad_scope: no",
        ),
        (
            json_response(400, &json!({"error": {"code": 17, "message": "said twice"}})),
            502,
            "AUTH_ERROR",
            "17: said twice",
        ),
        (json_response(401, &json!({"message": "who?"})), 502, "AUTH_ERROR", "http_401"),
        (
            json_response(400, &json!({"error": "invalid_client", "reason": format!("not {SECRET}\nat all")})),
            502,
            "AUTH_ERROR",
            "invalid_client: not [redacted] at all",
        ),
        (
            json_response(503, &json!({"error": "invalid_grant"})),
            502,
            "UPSTREAM_ERROR",
            "503 Service Unavailable: invalid_grant",
        ),
        (text("<html>blocked</html>", "text/html"), 502, "UPSTREAM_ERROR", "neither a JSON object nor a form"),
        (json_response(200, &json!({"token": "elsewhere"})), 502, "UPSTREAM_ERROR", "nothing at /access_token"),
        (json_response(200, &json!({"access_token": "a b\nc"})), 502, "UPSTREAM_ERROR", "access_token: expected"),
        (json_response(200, &json!({"access_token": "x", "token_type": "DPoP"})), 502, "UPSTREAM_ERROR", "DPoP"),
        (json_response(200, &json!({"access_token": "x".repeat(100_000)})), 502, "UPSTREAM_ERROR", "larger than"),
        (
            Response::builder().status(302).header("location", "https://evil.example/").body(Body::empty()).unwrap(),
            409,
            "CONFLICT",
            "302 (a redirect)",
        ),
    ] {
        service.upstream.then(answer);
        let answer = service.post(&path("/connect"), &json!({})).await;
        assert_problem(&answer, status, code);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(told), "{told} in {detail}");
        assert!(!answer.json().to_string().contains(SECRET));
    }
    assert_eq!(status(&service).await, "AUTH_ERROR");
    service.upstream.always(|_| token());
    assert_eq!(service.post(&path("/connect"), &json!({})).await.status, 200);
    service.upstream.always(|_| json_response(400, &json!({"error": "invalid_client"})));
    assert_problem(&service.post(&path("/connect"), &json!({})).await, 502, "AUTH_ERROR");
    assert_eq!(status(&service).await, "CONNECTED", "the token that works stays");
}

#[tokio::test]
async fn where_the_definition_does_not_say_the_secret_goes_where_the_server_takes_it() {
    let service = service_with(&json!({"grantType": "client_credentials"})).await;
    service.upstream.always(|request| match form(request).get("client_secret").map(String::as_str) {
        Some(SECRET) if !request.headers.contains_key("authorization") => token(),
        _ => json_response(401, &json!({"error": "invalid_client"})),
    });
    let connected = service.post(&path("/connect"), &json!({})).await;
    assert_eq!(connected.status, 200, "{}", connected.json());
    assert_eq!(requests(&service, "/token").len(), 2);
}

#[tokio::test]
async fn endpoints_are_discovered_and_their_issuer_has_to_be_the_right_one() {
    let service = TestService::start().await;
    let mut document = oauth_definition(
        &service,
        &json!({"authorizationUrl": null, "tokenUrl": null, "discoveryUrl": "UPSTREAM/realms/one"}),
    );
    service.instance_of(&document, "mine").await;
    let url = service.upstream.url();
    let metadata = move |issuer: &str| {
        json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"), "token_endpoint": format!("{issuer}/token"),
            "authorization_response_iss_parameter_supported": true,
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        })
    };
    let issuer = format!("{url}/realms/one");
    let served = metadata(&issuer);
    service.upstream.always(move |request| match request.path_and_query.as_str() {
        "/realms/one/.well-known/openid-configuration" => json_response(200, &served),
        "/realms/one/token" if form(request).contains_key("client_secret") => token(),
        "/evil/.well-known/openid-configuration" => json_response(200, &served),
        _ => json_response(404, &json!({})),
    });
    let (authorize, query) = begin(&service, &json!({})).await;
    assert_eq!(authorize.path(), "/realms/one/auth");
    let answer = come_back_for(&service, &[("code", "c"), ("state", &query["state"])], "application/json").await;
    assert_eq!(pointers(&answer), ["/query/iss"], "the server says that it names itself");
    let (_, query) = begin(&service, &json!({})).await;
    let answer = come_back(&service, &[("code", "c"), ("state", &query["state"]), ("iss", &issuer)]).await;
    assert_eq!(answer.status, 200);
    let reads =
        service.upstream.received().iter().filter(|request| request.path_and_query.contains("well-known")).count();
    assert_eq!(reads, 2, "one miss, one read, then from memory");

    (document["id"], document["oauth2Config"]["discoveryUrl"]) = (json!("evil"), json!(format!("{url}/evil")));
    service.instance_of(&document, "other").await;
    let answer = service.post("/api/v1/integration-instances/other/oauth/authorize", &json!({})).await;
    assert_problem(&answer, 409, "CONFLICT");
    assert!(answer.json()["detail"].as_str().unwrap().contains("expected the issuer"), "{}", answer.json());
}

#[tokio::test]
async fn a_faulty_oauth_config_is_not_published() {
    let service = TestService::start().await;
    let document = oauth_definition(
        &service,
        &json!({
            "tokenUrl": "ftp://x", "authorizationUrl": "https://{tenant}/a", "revocationUrl": "https://u:p@x/",
            "tokenHeaders": {"Authorization": "x"}, "tokenResponse": {"accessToken": "token"},
        }),
    );
    let report = service.post("/api/v1/integration-definitions/validate", &document).await.json();
    let mut found: Vec<&str> =
        report["problems"].as_array().unwrap().iter().map(|problem| problem["pointer"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "/oauth2Config/authorizationUrl",
            "/oauth2Config/revocationUrl",
            "/oauth2Config/tokenHeaders/Authorization",
            "/oauth2Config/tokenResponse/accessToken",
            "/oauth2Config/tokenUrl",
        ]
    );
    let mut keyed = oauth_definition(&service, &json!({"clientSecret": null, "clientPrivateKey": "no key"}));
    let refused = service.post("/api/v1/integration-definitions", &keyed).await;
    assert_problem(&refused, 400, "VALIDATION_ERROR");
    assert_eq!(pointers(&refused), ["/oauth2Config/clientPrivateKey"]);
    let report = service.post("/api/v1/integration-definitions/validate", &keyed).await.json();
    assert_eq!(report["problems"][0]["pointer"], "/oauth2Config/clientPrivateKey");
    keyed["oauth2Config"]["clientSecret"] = json!("both");
    let refused = service.post("/api/v1/integration-definitions", &keyed).await;
    assert_eq!(pointers(&refused), ["/oauth2Config/clientPrivateKey"]);
}
