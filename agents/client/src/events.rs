//! Events about objects, best effort: `event` never blocks and never fails; what cannot be written is dropped and counted.
//! Not here: what is worth writing (`core::events`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::Client;
use crate::core::events::{Correlator, Sameness, Verdict};
use crate::core::reflector::Key;
use crate::error::Error;
use crate::limits::EVENTS_QUEUED_MAX;
use crate::resource::resources::EVENTS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    Normal,
    Warning,
}

/// The object an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Subject {
    pub fn of<K: k8s_openapi::Metadata<Ty = ObjectMeta>>(object: &K) -> Subject {
        let meta = object.metadata();
        Subject {
            api_version: K::API_VERSION.to_owned(),
            kind: K::KIND.to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

struct Draft {
    subject: Subject,
    event_type: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records events in the name of one component. Clones share one writer; it ends with the last clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Draft>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// `host` is the node's or machine's name the component runs on.
    pub fn start(client: &Client, component: &str, host: &str) -> Recorder {
        let (sender, receiver) = mpsc::channel(EVENTS_QUEUED_MAX);
        let writer = Writer {
            client: client.clone(),
            component: component.to_owned(),
            host: host.to_owned(),
            correlator: Correlator::default(),
            origin: Instant::now(),
        };
        tokio::spawn(writer.run(receiver));
        Recorder {
            sender,
            dropped: Arc::default(),
        }
    }

    pub fn event(&self, subject: &Subject, event_type: EventType, reason: &str, message: &str) {
        let draft = Draft {
            subject: subject.clone(),
            event_type,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: Timestamp::now(),
        };
        if self.sender.try_send(draft).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(dropped, reason, "event dropped");
        }
    }

    /// How many events were not even queued.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    correlator: Correlator,
    origin: Instant,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Draft>) {
        while let Some(draft) = receiver.recv().await {
            if let Err(error) = self.write(&draft).await {
                tracing::debug!(%error, reason = draft.reason, "event not written");
            }
        }
    }

    async fn write(&mut self, draft: &Draft) -> Result<(), Error> {
        let sameness = Sameness {
            uid: draft.subject.uid.clone(),
            event_type: match draft.event_type {
                EventType::Normal => "Normal",
                EventType::Warning => "Warning",
            },
            reason: draft.reason.clone(),
            message: draft.message.clone(),
        };
        // Kubernetes names events after the object and the time in hexadecimal nanoseconds.
        let name = format!("{}.{:x}", draft.subject.name, draft.at.as_nanosecond());
        // Events about cluster-scoped objects live in "default".
        let namespace = match draft.subject.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        match self
            .correlator
            .observe(&sameness, &name, self.origin.elapsed())
        {
            Verdict::Drop => Ok(()),
            Verdict::Create => self.create(draft, namespace, &name).await,
            Verdict::Count { name: first, count } => {
                let patch = json!({"count": count, "lastTimestamp": Time(draft.at)});
                let patched = self
                    .client
                    .patch::<Value>(EVENTS, &Key::new(namespace, &first), "", &patch)
                    .await;
                match patched {
                    Err(error) if error.is_not_found() => {
                        self.correlator.forget(&sameness);
                        self.correlator
                            .observe(&sameness, &name, self.origin.elapsed());
                        self.create(draft, namespace, &name).await
                    }
                    other => other.map(|_| ()),
                }
            }
        }
    }

    async fn create(&self, draft: &Draft, namespace: &str, name: &str) -> Result<(), Error> {
        let subject = &draft.subject;
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: Some(subject.api_version.clone()),
                kind: Some(subject.kind.clone()),
                namespace: Some(subject.namespace.clone())
                    .filter(|namespace| !namespace.is_empty()),
                name: Some(subject.name.clone()),
                uid: Some(subject.uid.clone()),
                ..Default::default()
            },
            type_: Some(format!("{:?}", draft.event_type)),
            reason: Some(draft.reason.clone()),
            message: Some(draft.message.clone()),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()),
            }),
            first_timestamp: Some(Time(draft.at)),
            last_timestamp: Some(Time(draft.at)),
            count: Some(1),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Default::default()
        };
        let _: Value = self.client.create(EVENTS, namespace, &event).await?;
        Ok(())
    }
}
