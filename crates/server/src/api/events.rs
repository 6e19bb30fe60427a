//! The history of events, and their live stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, HeaderName};
use integration_engine::rotation::{EventTaken, IncomingEvent};
use integration_model::InstanceId;
use integration_model::event::{Event, EventType};
use integration_store::{EventCursor, EventFilter, EventStretch, StoreError};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    Caller, Stretch, header_fault, header_text, parse_names, parse_query, parse_time, query_fault, stretch_limit,
};
use crate::error::ApiError;
use crate::extract::{Json, Query};
use crate::middleware::RequestContext;
use crate::state::AppState;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How many events one read of the stream takes.
const BATCH: u32 = 200;
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often the history is looked at without a word: other processes commit to it too.
const POLL: Duration = Duration::from_secs(2);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct EventQuery {
    /// An event type, several separated by commas.
    #[serde(rename = "type")]
    #[param(value_type = Option<Vec<EventType>>, style = Form, explode = false)]
    pub event_type: Option<String>,
    /// The instance's id.
    #[param(value_type = Option<InstanceId>)]
    pub instance: Option<String>,
    /// RFC 3339; the earliest.
    #[param(format = DateTime)]
    pub from: Option<String>,
    /// RFC 3339; before this.
    #[param(format = DateTime)]
    pub until: Option<String>,
    /// `nextCursor` of the page before.
    #[param(format = Uuid)]
    pub cursor: Option<String>,
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

impl EventQuery {
    fn filter(&self, caller: &Caller) -> Result<EventFilter, ApiError> {
        let types = parse_names("type", self.event_type.as_deref(), "event type", EventType::ALL, EventType::as_str)?;
        Ok(EventFilter {
            types,
            tenant: caller.principal.tenant.clone(),
            instance: parse_query("instance", self.instance.as_deref(), "an instance's id", |text| {
                InstanceId::parse(text).ok()
            })?,
            from: parse_time("from", self.from.as_deref())?,
            until: parse_time("until", self.until.as_deref())?,
        })
    }
}

/// List events, the newest first.
///
/// Filters combine. `nextCursor` leads on to older ones; where events are large, a page holds
/// fewer than `limit`.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", operation_id = "listEvents",
    params(EventQuery), responses((status = 200, body = Stretch<Event>)))]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<EventQuery>,
) -> Result<Json<Stretch<Event>>, ApiError> {
    let limit = stretch_limit(query.limit)?;
    let before = match &query.cursor {
        Some(text) => {
            Some(text.parse::<Uuid>().map_err(|_| query_fault("cursor", "expected the nextCursor of a page"))?)
        }
        None => None,
    };
    let filter = query.filter(&caller)?;
    let stretch = state.engine.store().read_events(&filter, EventCursor::Before(before), limit).await?;
    let EventStretch { events: items, more } = stretch;
    let next_cursor = items.last().filter(|_| more).map(|event| event.id.to_string());
    Ok(Json(Stretch { items, next_cursor }))
}

/// Give the service an event of another one.
///
/// Taken is `system.credential.rotated`: what is kept in memory of the credentials of the
/// instances that it names is dropped, and they are read and tested anew. An event that comes
/// again under the same id does nothing.
#[utoipa::path(post, path = "/api/v1/events", tag = "events", operation_id = "takeEvent",
    request_body(content = IncomingEvent, example = json!({
        "type": "system.credential.rotated", "id": "0198c0de-0000-7000-8000-00000000aaaa",
        "timestamp": "2026-01-31T10:30:00.000Z", "data": {"integrationInstanceId": "pets"},
        "metadata": {"correlationId": "c-1", "source": "credential-service"}
    })),
    responses((status = 200, body = EventTaken), (status = 422, description = "Events of this type are not taken")))]
pub(crate) async fn take(
    State(state): State<AppState>,
    caller: Caller,
    Json(event): Json<IncomingEvent>,
) -> Result<Json<EventTaken>, ApiError> {
    Ok(Json(state.engine.take_event(event, &caller.principal).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct StreamQuery {
    /// An event type, several separated by commas.
    #[serde(rename = "type")]
    #[param(value_type = Option<Vec<EventType>>, style = Form, explode = false)]
    pub event_type: Option<String>,
    /// The instance's id.
    #[param(value_type = Option<InstanceId>)]
    pub instance: Option<String>,
}

/// Follow events as they are committed (Server-Sent Events).
///
/// With `Last-Event-ID` the stream goes on after that event; without, it begins with what
/// comes next. It ends when the key that opened it is no longer valid.
#[utoipa::path(get, path = "/api/v1/events/stream", tag = "events", operation_id = "streamEvents",
    params(StreamQuery, ("Last-Event-ID" = Option<Uuid>, Header, description = "The id of the last event that was seen")),
    responses((status = 200, body = String, content_type = "text/event-stream")))]
pub(crate) async fn stream(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = EventQuery {
        event_type: query.event_type,
        instance: query.instance,
        from: None,
        until: None,
        cursor: None,
        limit: None,
    };
    let filter = query.filter(&caller)?;
    let last = match header_text(&headers, &LAST_EVENT_ID)? {
        Some(text) => Some(text.parse().map_err(|_| header_fault(&LAST_EVENT_ID, "expected the id of an event"))?),
        None => newest_event(&state).await?,
    };
    let reader = Reader {
        signal: state.engine.store().event_signal(),
        state: state.clone(),
        headers,
        context: caller.context,
        filter,
        last,
        waiting: Vec::new(),
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The last event that is committed, of any kind: ids ascend in the order of commits, so
/// what comes next lies after it.
async fn newest_event(state: &AppState) -> Result<Option<Uuid>, StoreError> {
    let newest = state.engine.store().list_events(&EventFilter::default(), EventCursor::Before(None), 1).await?;
    Ok(newest.first().map(|event| event.id))
}

/// Reads on in the history whenever something was committed: nothing is missed, however
/// slow the reader is, and nothing is held for it but one batch.
struct Reader {
    state: AppState,
    /// What the caller presented, to be presented again.
    headers: HeaderMap,
    context: RequestContext,
    filter: EventFilter,
    /// All up to this one was read.
    last: Option<Uuid>,
    signal: tokio::sync::watch::Receiver<u64>,
    /// The rest of the batch, the oldest at the end.
    waiting: Vec<Event>,
}

impl Reader {
    /// None when the service stops, when the caller's key is no longer valid, or where the history cannot be read: the client comes
    /// back with `Last-Event-ID`.
    async fn next(&mut self) -> Option<sse::Event> {
        while !self.state.stopping.is_cancelled() {
            if let Some(event) = self.waiting.pop() {
                let data = serde_json::to_string(&event).ok()?;
                return Some(
                    sse::Event::default().id(event.id.to_string()).event(event.event_type.as_str()).data(data),
                );
            }
            // A key may have been revoked, or have expired, since the stream began.
            self.state.authenticator.authenticate(&self.headers, &self.context, false).await.ok()?;
            self.signal.mark_unchanged();
            if let Err(error) = self.read_batch().await {
                tracing::error!(error = %error, "the event stream could not read on");
                return None;
            }
            if self.waiting.is_empty() {
                tokio::select! {
                    changed = self.signal.changed() => changed.ok()?,
                    () = tokio::time::sleep(POLL) => {}
                    () = self.state.stopping.cancelled() => return None,
                }
            }
        }
        None
    }

    async fn read_batch(&mut self) -> Result<(), StoreError> {
        let newest = newest_event(&self.state).await?;
        let stretch = self.state.engine.store().read_events(&self.filter, EventCursor::After(self.last), BATCH).await?;
        let EventStretch { mut events, more } = stretch;
        // A batch that ended by itself holds all that passes the filter: what did not pass need
        // not be looked at again.
        self.last = self.last.max(events.last().map(|event| event.id)).max(newest.filter(|_| !more));
        events.reverse();
        self.waiting = events;
        Ok(())
    }
}
