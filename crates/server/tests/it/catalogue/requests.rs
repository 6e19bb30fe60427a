//! What each definition sends: one request of each by hand, and every method with params that
//! fit its schema. Nothing leaves: these are dry runs.

use serde_json::{Value, json};

use super::sample;
use super::{CATALOGUE, SECRET, config, connect};
use crate::service::TestService;

/// Id, method, params; verb and URL, body.
fn cases() -> Vec<(&'static str, &'static str, Value, String, Value)> {
    let twilio = format!("https://api.twilio.com/2010-04-01/Accounts/AC{}", "0".repeat(32));
    let service_sid = format!("VA{}", "0".repeat(32));
    let case = |id, method, params, request: &str, body| (id, method, params, request.to_owned(), body);
    vec![
        case(
            "airtable",
            "listRecords",
            json!({"baseId": "app1", "tableIdOrName": "Ideas & plans", "fields": ["Name", "Done"], "view": "All"}),
            "GET https://api.airtable.com/v0/app1/Ideas%20%26%20plans?fields%5B%5D=Name&fields%5B%5D=Done&view=All\
             &pageSize=100",
            Value::Null,
        ),
        case(
            "anthropic",
            "createMessage",
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}),
            "POST https://api.anthropic.com/v1/messages",
            json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}),
        ),
        case(
            "asana",
            "createTask",
            json!({"data": {"name": "Call", "workspace": "1"}, "opt_fields": ["gid", "permalink_url"]}),
            "POST https://app.asana.com/api/1.0/tasks?opt_fields=gid,permalink_url",
            json!({"data": {"name": "Call", "workspace": "1"}}),
        ),
        case(
            "auth0",
            "listUsers",
            json!({"q": "email:\"ann@example.com\"", "page": 2}),
            "GET https://acme.eu.auth0.com/api/v2/users?page=2&q=email%3A%22ann%40example.com%22\
             &search_engine=v3&per_page=100",
            Value::Null,
        ),
        case(
            "datadog",
            "createEvent",
            json!({"title": "Deployed", "text": "1.2", "tags": ["env:prod"]}),
            "POST https://api.datadoghq.com/api/v1/events",
            json!({"title": "Deployed", "text": "1.2", "tags": ["env:prod"]}),
        ),
        case(
            "discord",
            "addReaction",
            json!({"channel_id": "1", "message_id": "2", "emoji": "👍"}),
            "PUT https://discord.com/api/v10/channels/1/messages/2/reactions/%F0%9F%91%8D/@me",
            Value::Null,
        ),
        case(
            "github",
            "putContents",
            json!({"owner": "octocat", "repo": "hello", "path": "docs/a b.md", "message": "Say hi", "content": "aGk="}),
            "PUT https://api.github.com/repos/octocat/hello/contents/docs/a%20b.md",
            json!({"message": "Say hi", "content": "aGk="}),
        ),
        case(
            "gitlab",
            "createIssue",
            json!({"id": "group/project", "title": "It breaks", "labels": "bug"}),
            "POST https://gitlab.com/api/v4/projects/group%2Fproject/issues",
            json!({"title": "It breaks", "labels": "bug"}),
        ),
        case(
            "google-calendar",
            "updateEvent",
            json!({"calendarId": "ann@example.com", "eventId": "e1", "sendUpdates": "none", "summary": "Lunch"}),
            "PATCH https://www.googleapis.com/calendar/v3/calendars/ann%40example.com/events/e1?sendUpdates=none",
            json!({"summary": "Lunch"}),
        ),
        case(
            "google-sheets",
            "appendValues",
            json!({"spreadsheetId": "s", "range": "Sheet1!A1:B2", "valueInputOption": "RAW", "values": [[1, "x"]]}),
            "POST https://sheets.googleapis.com/v4/spreadsheets/s/values/Sheet1%21A1%3AB2:append?valueInputOption=RAW",
            json!({"values": [[1, "x"]]}),
        ),
        case(
            "hubspot",
            "updateObject",
            json!({"objectType": "contacts", "objectId": "ann@example.com", "idProperty": "email", "properties": {"a": "b"}}),
            "PATCH https://api.hubapi.com/crm/v3/objects/contacts/ann%40example.com?idProperty=email",
            json!({"properties": {"a": "b"}}),
        ),
        case(
            "jira",
            "transitionIssue",
            json!({"issueIdOrKey": "OPS-7", "transition": {"id": "31"}}),
            "POST https://acme.atlassian.net/rest/api/3/issue/OPS-7/transitions",
            json!({"transition": {"id": "31"}}),
        ),
        case(
            "mailgun",
            "sendMessage",
            json!({"from": "a@x.example", "to": ["b@x.example", "c@x.example"], "text": "Hi", "o:tag": ["t"]}),
            "POST https://api.mailgun.net/v3/mg.example.com/messages",
            json!("from=a%40x.example&to=b%40x.example&to=c%40x.example&text=Hi&o%3Atag=t"),
        ),
        case(
            "microsoft-graph-mail",
            "listMessages",
            json!({"top": 10, "filter": "isRead eq false", "select": ["id", "subject"]}),
            "GET https://graph.microsoft.com/v1.0/me/messages?%24filter=isRead%20eq%20false&%24select=id,subject&%24top=10",
            Value::Null,
        ),
        case(
            "notion",
            "queryDatabase",
            json!({"database_id": "d", "page_size": 5}),
            "POST https://api.notion.com/v1/databases/d/query",
            json!({"page_size": 5}),
        ),
        case(
            "openai",
            "createResponse",
            json!({"model": "m", "input": "Hi", "truncation": "auto"}),
            "POST https://api.openai.com/v1/responses",
            json!({"model": "m", "input": "Hi", "truncation": "auto"}),
        ),
        case(
            "pagerduty",
            "listIncidents",
            json!({"statuses": ["triggered", "acknowledged"], "limit": 5}),
            "GET https://api.pagerduty.com/incidents?limit=5&statuses%5B%5D=triggered&statuses%5B%5D=acknowledged",
            Value::Null,
        ),
        case(
            "salesforce",
            "upsertRecord",
            json!({"sobject": "Account", "field": "Ext__c", "value": "7/8", "record": {"Name": "Acme"}}),
            "PATCH https://acme.my.salesforce.com/services/data/v61.0/sobjects/Account/Ext__c/7%2F8",
            json!({"Name": "Acme"}),
        ),
        case(
            "sendgrid",
            "sendMail",
            json!({
                "personalizations": [{"to": [{"email": "b@x.example"}]}], "from": {"email": "a@x.example"},
                "subject": "Hi", "content": [{"type": "text/plain", "value": "Hi"}],
            }),
            "POST https://api.sendgrid.com/v3/mail/send",
            json!({
                "personalizations": [{"to": [{"email": "b@x.example"}]}], "from": {"email": "a@x.example"},
                "subject": "Hi", "content": [{"type": "text/plain", "value": "Hi"}],
            }),
        ),
        case(
            "shopify",
            "adjustInventory",
            json!({"inventory_item_id": 1, "location_id": 2, "available_adjustment": -3}),
            "POST https://acme.myshopify.com/admin/api/2024-10/inventory_levels/adjust.json",
            json!({"inventory_item_id": 1, "location_id": 2, "available_adjustment": -3}),
        ),
        case(
            "slack",
            "postMessage",
            json!({"channel": "C1", "text": "Hi", "thread_ts": "1700000000.000100"}),
            "POST https://slack.com/api/chat.postMessage",
            json!({"channel": "C1", "text": "Hi", "thread_ts": "1700000000.000100"}),
        ),
        case(
            "stripe",
            "createSubscription",
            json!({"customer": "cus_1", "items": [{"price": "p1"}, {"price": "p2", "quantity": 2}], "metadata": {"a": "b"}}),
            "POST https://api.stripe.com/v1/subscriptions",
            json!(
                "customer=cus_1&items%5B0%5D%5Bprice%5D=p1&items%5B1%5D%5Bprice%5D=p2&items%5B1%5D%5Bquantity%5D=2\
                 &metadata%5Ba%5D=b"
            ),
        ),
        (
            "twilio",
            "sendMessage",
            json!({"To": "+15558675310", "From": "+15017122661", "Body": "Hi", "MediaUrl": ["https://a.example/x"]}),
            format!("POST {twilio}/Messages.json"),
            json!("To=%2B15558675310&From=%2B15017122661&Body=Hi&MediaUrl=https%3A%2F%2Fa.example%2Fx"),
        ),
        (
            "twilio-verify",
            "checkVerification",
            json!({"ServiceSid": service_sid, "To": "+15558675310", "Code": "123456"}),
            format!("POST https://verify.twilio.com/v2/Services/{service_sid}/VerificationCheck"),
            json!("To=%2B15558675310&Code=123456"),
        ),
        case(
            "zendesk",
            "listTickets",
            json!({"page_size": 50}),
            "GET https://acme.zendesk.com/api/v2/tickets.json?page%5Bsize%5D=50",
            Value::Null,
        ),
    ]
}

async fn dry_run(service: &TestService, id: &str, method: &str, params: &Value) -> Value {
    let shown = service.post(&format!("/execute/{id}/{method}?dryRun=true"), &json!({"params": params})).await;
    let body = shown.json();
    assert_eq!(shown.status, 200, "{id}/{method} with {params}: {body}");
    assert!(!body.to_string().contains(SECRET), "{id}/{method} shows the secret");
    body["data"].clone()
}

#[tokio::test]
async fn every_definition_sends_what_its_vendor_expects() {
    let service = TestService::start().await;
    let cases = cases();
    let mut faults = Vec::new();
    for entry in service.items(CATALOGUE).await {
        let id = entry["id"].as_str().unwrap();
        let definition = connect(&service, id, &config(id)).await;
        if definition["type"] != "http" {
            // They do not make a request of HTTP by each method; real servers are their test.
            for method in definition["methods"].as_array().unwrap() {
                let params = sample::value(&method["paramSchema"]);
                dry_run(&service, id, method["name"].as_str().unwrap(), &params).await;
            }
            continue;
        }
        let (_, method, params, request, body) =
            cases.iter().find(|case| case.0 == id).unwrap_or_else(|| panic!("no request of {id} is looked at"));
        let shown = dry_run(&service, id, method, params).await;
        let line = format!("{} {}", shown["method"].as_str().unwrap(), shown["url"].as_str().unwrap());
        if (&line, &shown["body"]) != (request, body) {
            faults.push(format!("{id}: {line} {}", shown["body"]));
        }
        for method in definition["methods"].as_array().unwrap() {
            let name = method["name"].as_str().unwrap();
            let params = sample::value(&method["paramSchema"]);
            let shown = dry_run(&service, id, name, &params).await;
            assert_eq!(shown["method"], method["operation"]["verb"], "{id}/{name}");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn credentials_and_versions_go_where_vendors_look_for_them() {
    let service = TestService::start().await;
    for (id, method, carried, fixed) in [
        ("stripe", "getBalance", "Bearer a-secret-mark-1f9c", None),
        ("pagerduty", "listAbilities", "Token token=a-secret-mark-1f9c", None),
        ("discord", "getCurrentUser", "Bot a-secret-mark-1f9c", None),
        ("anthropic", "listModels", "a-secret-mark-1f9c", Some(("anthropic-version", "2023-06-01"))),
        ("gitlab", "getCurrentUser", "a-secret-mark-1f9c", None),
        ("shopify", "getShop", "a-secret-mark-1f9c", None),
        ("notion", "getSelf", "Bearer a-secret-mark-1f9c", Some(("notion-version", "2022-06-28"))),
        ("github", "getAuthenticatedUser", "Bearer a-secret-mark-1f9c", Some(("x-github-api-version", "2022-11-28"))),
    ] {
        let mut config = config(id);
        config["baseUrl"] = json!(service.upstream.url());
        let definition = connect(&service, id, &config).await;
        let executed = service.execute(id, method, &json!({})).await;
        assert_eq!(executed.status, 200, "{id}: {}", executed.json());
        let received = service.upstream.received().pop().unwrap();
        let header = definition["apiKeyAuth"]["header"].as_str().unwrap();
        assert_eq!(received.headers[header], carried, "{id}");
        if let Some((name, value)) = fixed {
            assert_eq!(received.headers[name], value, "{id}");
        }
    }
}
