//! A server of objects that computes signatures of version 4 and refuses those that do not hold.
//! It runs in the test's own process, and loses connections on cue.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

pub(super) const ID: &str = "AKIDEXAMPLE";
pub(super) const SECRET: &str = "the-right-secret/+of=the=key";

/// What goes wrong at the next request that fits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cue {
    /// The connection closes in the midst of a request whose verb and target hold this, so many
    /// times.
    CloseAt(&'static str, usize),
    /// A request whose verb and target hold this is taken later than it came.
    TakeLate(&'static str),
    /// The content of an object ends before its end.
    BreakOff,
    /// The content of an object begins, and does not go on.
    Stall,
}

#[derive(Default)]
struct Script {
    cue: Mutex<Option<Cue>>,
    seen: Mutex<Vec<String>>,
}

/// It has a bucket `files`.
pub(super) struct VerifyingServer {
    pub(super) url: String,
    pub(super) folder: TempDir,
    script: Arc<Script>,
    task: tokio::task::JoinHandle<()>,
}

impl VerifyingServer {
    pub(super) async fn start() -> Self {
        Self::start_with(|service| service.set_auth(SimpleAuth::from_single(ID, SECRET)), |request| request).await
    }

    /// `translate` makes a request of S3 out of what comes in.
    pub(super) async fn start_with(
        configure: impl FnOnce(&mut S3ServiceBuilder),
        translate: impl Fn(Request<Incoming>) -> Request<Incoming> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("files")).unwrap();
        let mut builder = S3ServiceBuilder::new(Objects(FileSystem::new(folder.path()).unwrap()));
        configure(&mut builder);
        let (service, script, translate) = (builder.build(), Arc::new(Script::default()), Arc::new(translate));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&script);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, script, translate) = (service.clone(), Arc::clone(&shared), Arc::clone(&translate));
                let answer = service_fn(move |request| {
                    let (service, script, translate) = (service.clone(), Arc::clone(&script), Arc::clone(&translate));
                    async move { script.answer(&service, translate(request)).await }
                });
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { url, folder, script, task }
    }

    pub(super) fn config(&self) -> Value {
        json!({"provider": "s3", "bucket": "files", "endpoint": self.url, "prefix": "app/"})
    }

    /// Does this at the next request that fits.
    pub(super) fn cue(&self, cue: Cue) {
        *self.script.cue.lock().unwrap() = Some(cue);
    }

    /// Verbs and targets of the requests since it was last asked.
    pub(super) fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.script.seen.lock().unwrap())
    }

    /// What is left of uploads that were neither completed nor given up.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains("upload_id")).collect()
    }
}

impl Drop for VerifyingServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Script {
    async fn answer(&self, service: &S3Service, mut request: Request<Incoming>) -> io::Result<Response> {
        let name = format!("{} {}", request.method(), request.uri());
        let cue = *self.cue.lock().unwrap();
        if let Some(Cue::TakeLate(text)) = cue
            && name.contains(text)
        {
            self.done();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.seen.lock().unwrap().push(name.clone());
        match cue {
            Some(Cue::CloseAt(text, times)) if name.contains(text) => {
                let next = (times > 1).then_some(Cue::CloseAt(text, times - 1));
                *self.cue.lock().unwrap() = next;
                let _ = request.body_mut().frame().await;
                return Err(io::Error::other("closed on cue"));
            }
            _ => {}
        }
        let is_get = request.method() == http::Method::GET;
        let response =
            service.call(request.map(s3s::Body::from)).await.map_err(|error| io::Error::other(format!("{error:?}")))?;
        let first = || Ok::<_, io::Error>(Bytes::from(vec![0; 64 * 1024]));
        match cue {
            Some(Cue::BreakOff) if is_get => {
                self.done();
                // What came first goes out while the stream waits.
                let end = stream::once(async {
                    tokio::task::yield_now().await;
                    Err(io::Error::other("broken off on cue"))
                });
                Ok(response.map(|_| Body::from_stream(stream::iter([first()]).chain(end))))
            }
            Some(Cue::Stall) if is_get => {
                self.done();
                Ok(response.map(|_| Body::from_stream(stream::iter([first()]).chain(stream::pending()))))
            }
            _ => Ok(response.map(Body::new)),
        }
    }

    fn done(&self) {
        *self.cue.lock().unwrap() = None;
    }
}

/// Objects in files, and what their server lacks of the protocol.
struct Objects(FileSystem);

type Answered<'a, T> = Pin<Box<dyn Future<Output = S3Result<S3Response<T>>> + Send + 'a>>;

macro_rules! objects {
    ($($name:ident: $input:ident => $output:ident),+ $(,)?) => {
        impl S3 for Objects {
            $(fn $name<'life, 'a>(&'life self, request: S3Request<$input>) -> Answered<'a, $output>
            where
                'life: 'a,
                Self: 'a,
            {
                self.0.$name(request)
            })+

            /// Keys are encoded where that was asked for.
            fn list_objects_v2<'life, 'a>(
                &'life self,
                request: S3Request<ListObjectsV2Input>,
            ) -> Answered<'a, ListObjectsV2Output>
            where
                'life: 'a,
                Self: 'a,
            {
                Box::pin(async move {
                    let encode = |text: &str| {
                        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
                    };
                    let is_encoded = request.input.encoding_type.is_some();
                    let mut response = self.0.list_objects_v2(request).await?;
                    if is_encoded {
                        for object in response.output.contents.iter_mut().flatten() {
                            object.key = object.key.as_deref().map(encode);
                        }
                        for common in response.output.common_prefixes.iter_mut().flatten() {
                            common.prefix = common.prefix.as_deref().map(encode);
                        }
                    }
                    Ok(response)
                })
            }

            /// What the reader has already is not sent.
            fn get_object<'life, 'a>(&'life self, request: S3Request<GetObjectInput>) -> Answered<'a, GetObjectOutput>
            where
                'life: 'a,
                Self: 'a,
            {
                Box::pin(async move {
                    let known = request.input.if_none_match.clone();
                    let response = self.0.get_object(request).await?;
                    match (known.as_ref().and_then(|known| known.as_etag()), &response.output.e_tag) {
                        (Some(known), Some(etag)) if known.weak_cmp(etag) => Err(s3_error!(NotModified)),
                        _ => Ok(response),
                    }
                })
            }
        }
    };
}

objects! {
    put_object: PutObjectInput => PutObjectOutput,
    head_object: HeadObjectInput => HeadObjectOutput,
    delete_object: DeleteObjectInput => DeleteObjectOutput,
    copy_object: CopyObjectInput => CopyObjectOutput,
    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput,
    upload_part: UploadPartInput => UploadPartOutput,
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput,
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput,
}
