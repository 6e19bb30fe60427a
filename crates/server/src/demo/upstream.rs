//! The sandbox: a small part of GitHub's REST API on loopback, with its ways: tokens,
//! pages by `Link`, limits in headers, errors as JSON, and a fit of weakness.
//! Must not know the service that calls it.

use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header::{AUTHORIZATION, LINK, LOCATION};
use http::{HeaderName, HeaderValue, StatusCode};
use integration_store::Clock;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::access::generate_key;
use crate::config::Secret;

/// The one repository that there is.
pub(crate) const OWNER: &str = "octocat";
pub(crate) const REPOSITORY: &str = "hello-world";

/// How often the languages fail before they are told.
pub(crate) const FAILURES: u32 = 2;

/// What one user may ask in an hour.
const REQUESTS_AN_HOUR: u32 = 5_000;
/// Nobody fills the memory with issues.
const MAX_ISSUES: usize = 1_000;

/// The running sandbox.
pub(crate) struct Sandbox {
    address: SocketAddr,
    world: Arc<World>,
    task: JoinHandle<std::io::Result<()>>,
}

/// What the handlers share.
struct World {
    token: Secret,
    base: String,
    clock: Clock,
    requests: AtomicU32,
    failures_left: AtomicU32,
    issues: Mutex<Vec<Issue>>,
}

#[derive(Clone)]
struct Issue {
    title: String,
    body: Option<String>,
    open: bool,
}

impl Sandbox {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let world = Arc::new(World {
            token: Secret::new(format!("ghp_{}", generate_key()?.expose())),
            base: format!("http://{address}"),
            clock: Clock::system(),
            requests: AtomicU32::new(0),
            failures_left: AtomicU32::new(FAILURES),
            issues: Mutex::new(first_issues()),
        });
        let task = tokio::spawn(axum::serve(listener, router(Arc::clone(&world))).into_future());
        Ok(Self { address, world, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the sandbox can be asked about itself, from any thread.
    pub(crate) fn witness(&self) -> Witness {
        Witness(Arc::clone(&self.world))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sees the sandbox from its own side.
pub(crate) struct Witness(Arc<World>);

impl Witness {
    pub(crate) fn base_url(&self) -> &str {
        &self.0.base
    }

    /// The token that the sandbox takes.
    pub(crate) fn token(&self) -> &Secret {
        &self.0.token
    }

    /// How many requests came in.
    pub(crate) fn requests(&self) -> u32 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// How many issues there are.
    pub(crate) fn issues(&self) -> usize {
        self.0.issues().len()
    }
}

fn first_issues() -> Vec<Issue> {
    let issue = |title: &str, open| Issue { title: title.to_owned(), body: None, open };
    vec![
        issue("Say hello in more languages", true),
        issue("The greeting lacks a comma", false),
        issue("Document how to greet several worlds", true),
        issue("Greeting is slow on Mondays", true),
        issue("Add a dark greeting", true),
        issue("Hello to the moon as well", false),
        issue("The world does not answer", true),
    ]
}

fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/user", get(user))
        .route("/repos/{owner}/{repo}", get(repository))
        .route("/repos/{owner}/{repo}/languages", get(languages))
        .route("/repos/{owner}/{repo}/issues", get(list_issues).post(create_issue))
        .route("/repos/{owner}/{repo}/issues/{number}", get(read_issue))
        .fallback(async || not_found())
        .layer(from_fn_with_state(Arc::clone(&world), at_the_gate))
        .with_state(world)
}

type Repository = Path<(String, String)>;

/// Counts every request, lets in those with the token, and tells all of the limits.
async fn at_the_gate(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    let used = world.requests.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let mut response = match given.map(|value| value.split_once(' ')) {
        None => problem(StatusCode::UNAUTHORIZED, "Requires authentication"),
        Some(Some((scheme, token)))
            if matches!(scheme.to_ascii_lowercase().as_str(), "bearer" | "token") && token == world.token.expose() =>
        {
            next.run(request).await
        }
        Some(_) => problem(StatusCode::UNAUTHORIZED, "Bad credentials"),
    };
    let hour_ends = (world.clock.now().as_secs() / 3_600 + 1) * 3_600;
    let figures = [
        ("x-ratelimit-limit", i64::from(REQUESTS_AN_HOUR)),
        ("x-ratelimit-remaining", i64::from(REQUESTS_AN_HOUR.saturating_sub(used))),
        ("x-ratelimit-used", i64::from(used)),
        ("x-ratelimit-reset", hour_ends),
    ];
    let headers = response.headers_mut();
    for (name, value) in figures {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    }
    headers.insert("x-ratelimit-resource", HeaderValue::from_static("core"));
    headers.insert("x-github-media-type", HeaderValue::from_static("github.v3; format=json"));
    response
}

fn problem(status: StatusCode, message: &str) -> Response {
    let body = json!({
        "message": message,
        "documentation_url": "https://docs.github.com/rest",
        "status": status.as_u16().to_string(),
    });
    (status, Json(body)).into_response()
}

fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "Not Found")
}

async fn user() -> Response {
    Json(json!({"login": OWNER, "id": 583_231, "type": "User", "site_admin": false, "name": "The Octocat"}))
        .into_response()
}

async fn repository(State(world): State<Arc<World>>, Path((owner, repo)): Repository) -> Response {
    if !exists(&owner, &repo) {
        return not_found();
    }
    let open = world.issues().iter().filter(|issue| issue.open).count();
    Json(json!({
        "id": 1_296_269,
        "name": repo,
        "full_name": format!("{owner}/{repo}"),
        "private": false,
        "owner": {"login": owner, "id": 583_231, "type": "User"},
        "description": "My first repository on GitHub!",
        "fork": false,
        "url": format!("{}/repos/{owner}/{repo}", world.base),
        "language": "Rust",
        "stargazers_count": 2_847,
        "forks_count": 9,
        "open_issues_count": open,
        "default_branch": "main",
    }))
    .into_response()
}

/// Fails twice, as systems do, and then works.
async fn languages(State(world): State<Arc<World>>, Path((owner, repo)): Repository) -> Response {
    if !exists(&owner, &repo) {
        return not_found();
    }
    let weak = world.failures_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    if weak.is_ok() {
        return problem(StatusCode::BAD_GATEWAY, "Server Error");
    }
    Json(json!({"Rust": 78_769, "Shell": 7_769})).into_response()
}

#[derive(Deserialize)]
struct IssueQuery {
    state: Option<String>,
    per_page: Option<usize>,
    page: Option<usize>,
}

async fn list_issues(
    State(world): State<Arc<World>>,
    Path((owner, repo)): Repository,
    Query(query): Query<IssueQuery>,
) -> Response {
    if !exists(&owner, &repo) {
        return not_found();
    }
    let state = query.state.as_deref().unwrap_or("open");
    let (per_page, page) = (query.per_page.unwrap_or(30).clamp(1, 100), query.page.unwrap_or(1).max(1));
    let wanted: Vec<Value> = {
        let issues = world.issues();
        let listed =
            issues.iter().enumerate().rev().filter(|(_, issue)| state == "all" || issue.open == (state == "open"));
        listed.map(|(index, issue)| world.describe(index, issue)).collect()
    };
    let pages = wanted.len().div_ceil(per_page).max(1);
    let items: Vec<Value> = wanted.into_iter().skip((page - 1).saturating_mul(per_page)).take(per_page).collect();
    let mut response = Json(items).into_response();
    let base = format!("{}/repos/{owner}/{repo}/issues?state={state}&per_page={per_page}", world.base);
    if let Ok(value) = HeaderValue::try_from(links(&base, page, pages))
        && !value.is_empty()
    {
        response.headers_mut().insert(LINK, value);
    }
    response
}

/// `Link` as GitHub writes it; empty where there is but one page.
fn links(base: &str, page: usize, pages: usize) -> String {
    let mut places = Vec::new();
    if page > 1 {
        places.extend([(page - 1, "prev"), (1, "first")]);
    }
    if page < pages {
        places.extend([(page + 1, "next"), (pages, "last")]);
    }
    let links: Vec<String> = places.iter().map(|(page, rel)| format!("<{base}&page={page}>; rel=\"{rel}\"")).collect();
    links.join(", ")
}

async fn read_issue(
    State(world): State<Arc<World>>,
    Path((owner, repo, number)): Path<(String, String, usize)>,
) -> Response {
    let issues = world.issues();
    let found = number.checked_sub(1).and_then(|index| Some((index, issues.get(index)?)));
    match found {
        Some((index, issue)) if exists(&owner, &repo) => Json(world.describe(index, issue)).into_response(),
        _ => not_found(),
    }
}

#[derive(Deserialize)]
struct NewIssue {
    title: String,
    body: Option<String>,
}

async fn create_issue(State(world): State<Arc<World>>, Path((owner, repo)): Repository, body: Bytes) -> Response {
    if !exists(&owner, &repo) {
        return not_found();
    }
    let Ok(new) = serde_json::from_slice::<NewIssue>(&body) else {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed");
    };
    let mut issues = world.issues();
    if issues.len() >= MAX_ISSUES {
        return problem(StatusCode::FORBIDDEN, "You have exceeded a secondary rate limit");
    }
    issues.push(Issue { title: new.title, body: new.body, open: true });
    let made = world.describe(issues.len() - 1, &issues[issues.len() - 1]);
    let location = made["url"].as_str().unwrap_or_default().to_owned();
    (StatusCode::CREATED, [(LOCATION, location)], Json(made)).into_response()
}

fn exists(owner: &str, repo: &str) -> bool {
    owner.eq_ignore_ascii_case(OWNER) && repo.eq_ignore_ascii_case(REPOSITORY)
}

impl World {
    fn issues(&self) -> MutexGuard<'_, Vec<Issue>> {
        self.issues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, index: usize, issue: &Issue) -> Value {
        let number = index + 1;
        json!({
            "number": number,
            "title": issue.title,
            "body": issue.body,
            "state": if issue.open { "open" } else { "closed" },
            "user": {"login": OWNER, "id": 583_231},
            "url": format!("{}/repos/{OWNER}/{REPOSITORY}/issues/{number}", self.base),
            "html_url": format!("https://github.com/{OWNER}/{REPOSITORY}/issues/{number}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_pages_around() {
        assert_eq!(links("u?a=b", 1, 1), "");
        assert_eq!(links("u?a=b", 1, 3), "<u?a=b&page=2>; rel=\"next\", <u?a=b&page=3>; rel=\"last\"");
        assert!(links("u?a=b", 2, 2).starts_with("<u?a=b&page=1>; rel=\"prev\""));
        assert_eq!(links("u?a=b", 9, 2).matches("next").count(), 0);
    }
}
