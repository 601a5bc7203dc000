//! get, list and the beginning of a watch: how new the answer must be, and which objects it is about.

use std::time::Duration;

use barque_apiserver_rules::{User, admission};
use barque_store_state::{KeyRange, Revision};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Pipeline;
use super::answer::{Answer, Content, Item, List};
use crate::limits::{BOOKMARK_INTERVAL, FRESHNESS_WAIT, LIST_PAGE_ROWS, WATCH_TIMEOUT_MIN};
use crate::requests::Call;
use crate::requests::options::{VersionMatch, bad_resource_version};
use crate::requests::selector::Selection;
use crate::status::{About, ApiError};
use crate::storage::object::Stored;
use crate::storage::{Consistency, Read, Rows, StorageError, keys, versions};
use crate::watch::{ObjectWatch, Start, WatchSetup};

/// Between two looks whether a revision has arrived.
const FRESHNESS_POLL: Duration = Duration::from_millis(10);
const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// Stands for "the newest" in a token that goes on after its revision was compacted.
const INCONSISTENT: i64 = -1;

/// A continue token, as kube-apiserver writes it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    /// The first key of the next page, behind the collection's prefix.
    start: String,
}

impl Token {
    fn new(rv: i64, start: &[u8]) -> Self {
        Token {
            v: TOKEN_VERSION.to_owned(),
            rv,
            start: String::from_utf8_lossy(start).into_owned(),
        }
    }
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token is JSON"))
    }
    fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|error| bad(&error.to_string()))?;
        let token: Token =
            serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
        if token.v != TOKEN_VERSION {
            return Err(bad("server does not recognize this encoded version"));
        }
        if token.rv == 0 || token.rv < INCONSISTENT {
            return Err(bad("incorrect encoded start resourceVersion"));
        }
        if token.start.is_empty() {
            return Err(bad("encoded start key empty"));
        }
        Ok(token)
    }
}

const EXPIRED_TOKEN: &str = "The provided continue parameter is too old to display a consistent list result. \
    You can start a new list without the continue parameter, or use the continue token in this response to retrieve \
    the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that \
    were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Which rows a list or watch is about.
pub(super) struct Scope {
    pub selection: Selection,
    /// Of the whole collection; tokens are relative to it.
    pub prefix: String,
    pub range: KeyRange,
}

impl Scope {
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let selection = Selection::parse(
            &call.options.label_selector,
            &call.options.field_selector,
            call.resource,
        )?;
        let namespace = call.namespace.as_deref();
        let prefix = keys::collection_prefix(call.resource, namespace);
        let one = call.name.as_deref().or(selection.name());
        let within = namespace.or(selection.namespace());
        let located = within.is_some() || !call.resource.kind.namespaced;
        let range = match one {
            Some(name) if located => KeyRange::point(keys::object(call.resource, within, name)),
            _ => keys::collection(call.resource, within),
        };
        Ok(Scope {
            selection,
            prefix,
            range,
        })
    }
}

impl Pipeline {
    pub(super) async fn get(&self, user: &User, call: &Call) -> Result<Answer, ApiError> {
        let consistency = self.wait_for(call).await?;
        let key = keys::object(call.resource, call.namespace.as_deref(), call.name());
        let stored = self
            .objects
            .get(&key, consistency)
            .await?
            .ok_or_else(|| ApiError::not_found(call.about()))?;
        if user.node_name().is_some() {
            let object = versions::decode(&stored, call.resource);
            admission::node_restriction(user, &call.attributes, &object)
                .map_err(|refused| ApiError::refused(call.about(), &refused))?;
        }
        Ok(Answer::object(
            call.resource,
            Item::of(stored, call.resource),
        ))
    }

    /// Waits until this member has seen what the request's resourceVersion asks for; says how to read then.
    async fn wait_for(&self, call: &Call) -> Result<Consistency, ApiError> {
        if call.options.resource_version.is_empty() {
            return Ok(Consistency::Linearizable);
        }
        let wanted = call.options.revision()?;
        self.wait_for_revision(Revision(wanted)).await?;
        Ok(Consistency::Local)
    }

    async fn wait_for_revision(&self, wanted: Revision) -> Result<(), ApiError> {
        let storage = self.objects.storage();
        let deadline = Instant::now() + FRESHNESS_WAIT;
        loop {
            let current = storage
                .revision(Consistency::Local)
                .await
                .map_err(|error| ApiError::storage(&error))?;
            if current >= wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ApiError::too_large_resource_version(wanted.0, current.0));
            }
            tokio::time::sleep(FRESHNESS_POLL).await;
        }
    }

    pub(super) async fn list(&self, call: &Call) -> Result<Answer, ApiError> {
        call.options.check_version_match()?;
        let list = self.list_page(call, &Scope::of(call)?).await?;
        Ok(Answer {
            resource: call.resource,
            code: 200,
            warnings: Vec::new(),
            content: Content::List(list),
        })
    }

    pub(super) async fn list_page(&self, call: &Call, scope: &Scope) -> Result<List, ApiError> {
        let options = &call.options;
        let mut range = scope.range.clone();
        let mut continues = false;
        let (mut consistency, mut revision) = (Consistency::Linearizable, None);
        if options.continue_token.is_empty() {
            consistency = self.wait_for(call).await?;
            let exact = match options.version_match {
                VersionMatch::Exact => true,
                VersionMatch::NotOlderThan => false,
                VersionMatch::Unset => options.limit > 0,
            };
            let asked = options.revision()?;
            if exact && asked > 0 {
                revision = Some(Revision(asked));
            }
        } else {
            if !options.resource_version.is_empty() && options.resource_version != "0" {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Token::decode(&options.continue_token)?;
            let start = format!("{}{}", scope.prefix, token.start);
            range.key = range.key.max(Bytes::from(start));
            continues = true;
            if let Ok(rv) = u64::try_from(token.rv) {
                // Another master may have handed the token out: it can be ahead of this one.
                self.wait_for_revision(Revision(rv)).await?;
                (consistency, revision) = (Consistency::Local, Some(Revision(rv)));
            }
        }

        let everything = scope.selection.is_everything();
        let limit = options.limit;
        let mut items = Vec::new();
        loop {
            let page = match limit {
                0 => LIST_PAGE_ROWS,
                limit if everything => limit.min(LIST_PAGE_ROWS),
                _ => LIST_PAGE_ROWS,
            };
            let wanted = if limit > 0 && everything {
                page.min(limit - items.len() as u64)
            } else {
                page
            };
            let read = Read {
                range: range.clone(),
                limit: wanted,
                revision,
                consistency,
            };
            let rows = match self.objects.storage().read(read).await {
                Err(StorageError::Compacted { .. }) if continues => {
                    let mut error = ApiError::expired(EXPIRED_TOKEN);
                    let start = range.key.get(scope.prefix.len()..).unwrap_or_default();
                    error.continue_token = Some(Token::new(INCONSISTENT, start).encode());
                    return Err(error);
                }
                other => other.map_err(|error| ApiError::storage(&error))?,
            };
            let Rows {
                revision: read_at,
                kvs,
                more,
                count,
            } = rows;
            revision = Some(read_at);
            consistency = Consistency::Local;
            let in_page = kvs.len();
            let mut next_key = range.key.clone();
            for (at, row) in kvs.into_iter().enumerate() {
                next_key = after(&row.key);
                let stored = Stored::from_row(&row).map_err(ApiError::internal)?;
                let item = Item::of(stored, call.resource);
                if !everything && !scope.selection.matches(&item.value(), call.resource) {
                    continue;
                }
                items.push(item);
                let left_in_page = in_page - at - 1;
                if limit > 0 && items.len() as u64 >= limit && (more || left_in_page > 0) {
                    let start = next_key.get(scope.prefix.len()..).unwrap_or_default();
                    let token = Token::new(i64::try_from(read_at.0).unwrap_or(i64::MAX), start);
                    let remaining = everything
                        .then(|| count.saturating_sub(in_page as u64) + left_in_page as u64);
                    return Ok(List {
                        items,
                        revision: read_at.0,
                        continue_token: Some(token.encode()),
                        remaining,
                    });
                }
            }
            if !more {
                return Ok(List {
                    items,
                    revision: read_at.0,
                    continue_token: None,
                    remaining: None,
                });
            }
            range.key = next_key;
        }
    }

    pub(super) async fn watch(&self, call: &Call) -> Result<Answer, ApiError> {
        let options = &call.options;
        options.check_version_match()?;
        let scope = Scope::of(call)?;
        let asked = options.revision()?;
        let streams_initial = options.send_initial_events.unwrap_or(asked == 0);
        let start = if streams_initial {
            Start::Everything {
                consistency: self.wait_for(call).await?,
                say_when_complete: options.send_initial_events == Some(true)
                    && options.allow_watch_bookmarks,
            }
        } else if asked == 0 {
            // sendInitialEvents=false without a version: from now on.
            let consistency = self.wait_for(call).await?;
            let now = self.objects.storage().revision(consistency).await;
            Start::After(now.map_err(|error| ApiError::storage(&error))?)
        } else {
            self.wait_for_revision(Revision(asked)).await?;
            Start::After(Revision(asked))
        };
        let timeout = options
            .timeout
            .unwrap_or_else(|| WATCH_TIMEOUT_MIN.mul_f64(1.0 + rand::random::<f64>()));
        let setup = WatchSetup {
            resource: call.resource,
            selection: scope.selection,
            range: scope.range,
            start,
            bookmarks: options.allow_watch_bookmarks.then_some(BOOKMARK_INTERVAL),
            timeout,
            stopping: self.stopping.clone(),
        };
        let watch = ObjectWatch::open(self.objects.storage().clone(), setup).await?;
        Ok(Answer {
            resource: call.resource,
            code: 200,
            warnings: Vec::new(),
            content: Content::Watch(Box::new(watch)),
        })
    }
}

/// The smallest key behind this one.
pub(crate) fn after(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The revision an object's own resourceVersion names.
pub(super) fn object_revision(text: &str, about: About<'_>) -> Result<Option<Revision>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(0) => Ok(None),
        Ok(revision) => Ok(Some(Revision(revision))),
        Err(_) => {
            tracing::debug!(name = about.name, text, "resourceVersion is not a number");
            Err(bad_resource_version(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_kubernetes_own() {
        let token = Token::new(42, b"default/web\0");
        assert_eq!(
            token.encode(),
            URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":42,"start":"default/web\u0000"}"#)
        );
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        for bad in ["", "!", "e30", "eyJ2IjoieCJ9"] {
            assert_eq!(Token::decode(bad).unwrap_err().code, 400, "{bad}");
        }
    }
}
