//! What the pipeline gives back, before REST or gRPC puts it into words.

use barque_apiserver_registry::Resource;
use serde_json::Value;

use super::flow::Permit;
use crate::storage::object::Stored;
use crate::storage::versions;
use crate::watch::ObjectWatch;

/// One object of an answer: as it lies in the store, or made for this answer.
#[derive(Clone, Debug)]
pub enum Item {
    Stored(Stored),
    Value(Value),
}

impl Item {
    /// A row, as a reader of `resource` sees it; bytes are kept where they already are that.
    pub fn of(stored: Stored, resource: &Resource) -> Item {
        if versions::is_native(&stored, resource) {
            Item::Stored(stored)
        } else {
            Item::Value(versions::decode(&stored, resource))
        }
    }

    pub fn value(&self) -> Value {
        match self {
            Item::Stored(stored) => stored.decode(),
            Item::Value(value) => value.clone(),
        }
    }

    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Item::Stored(stored) => stored.write_json(out),
            Item::Value(value) => {
                serde_json::to_writer(out, value).expect("a JSON value is JSON");
            }
        }
    }
}

/// A page of a collection.
pub struct List {
    pub items: Vec<Item>,
    /// The revision it was read at.
    pub revision: u64,
    pub continue_token: Option<String>,
    pub remaining: Option<u64>,
}

pub enum Content {
    Object(Item),
    List(List),
    Watch(Box<ObjectWatch>),
}

pub struct Answer {
    pub resource: &'static Resource,
    /// 200, 201 or 202.
    pub code: u16,
    pub warnings: Vec<String>,
    pub content: Content,
}

impl Answer {
    pub fn object(resource: &'static Resource, item: Item) -> Answer {
        Answer {
            resource,
            code: 200,
            warnings: Vec::new(),
            content: Content::Object(item),
        }
    }
    pub fn created(mut self) -> Answer {
        self.code = 201;
        self
    }
    pub fn with_warnings(mut self, warnings: Vec<String>) -> Answer {
        self.warnings = warnings;
        self
    }
    /// A watch counts as long as it is open.
    pub(super) fn hold(&mut self, permit: Permit) {
        if let Content::Watch(watch) = &mut self.content {
            watch.hold(permit);
        }
    }
}
