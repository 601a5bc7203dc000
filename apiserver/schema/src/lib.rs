//! The schema of every built-in kind: one table that drives the codec, strict checks, defaults, patches and OpenAPI.
//! Promise: pure functions of their arguments; objects are `serde_json::Value`.
//! Not here: validation of meaning, storage, HTTP.

mod defaults;
mod error;
mod kinds;
mod merge;
mod normal;
mod openapi;
mod protobuf;
mod quantity;
mod scalar;
mod strict;
pub mod table;
mod typed;
mod wire;

pub use defaults::apply_defaults;
pub use error::{DecodeError, EncodeError, PatchError};
pub use kinds::{Kind, Subresource, by_kind, by_resource, group_versions, kinds};
pub use merge::strategic_merge;
pub use openapi::openapi_v3;
pub use protobuf::{decode_protobuf, encode_protobuf};
pub use quantity::Quantity;
pub use scalar::encode_base64;
pub use strict::unknown_fields;
pub use typed::{drop_unknown, type_errors};
