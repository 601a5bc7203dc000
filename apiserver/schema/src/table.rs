//! The table of all built-in types and their fields: one record per field, from which every other module works.
//! Promise: parsed once, immutable, complete for the stable groups of Kubernetes 1.33; a wrong line fails the first use
//! (and the tests), never a request.
//! Not here: which kinds are served (`kinds`), what the values mean.
//!
//! The data lives in `table/*.tbl`, one line per type or field, `#` starts a comment:
//!
//! ```text
//! type core.v1.Pod kind=v1            a type; kind= names the apiVersion under which it is a root; atomic: applied as a whole
//! 2 spec .PodSpec marks…              protobuf number, JSON name, type, marks; names beginning with "." are in the same group
//! 1 - .ProbeHandler inline            its JSON fields appear in the parent's object, its protobuf fields do not
//! ```
//!
//! Types: `string int32 int64 bool double bytes`, `strings` (a message holding strings, a list in JSON), `time microtime
//! duration quantity int-or-string raw fields json schema-or-bool schema-or-array schema-or-strings`, or a type's name;
//! `[]T` is a list and `{}T` a map from strings. Marks:
//!
//! ```text
//! ptr         absent and zero differ                      always      printed even when zero
//! optional    may be left out although always printed     inline      see above
//! merge[=key] strategic merge joins the lists             retain      strategic merge knows $retainKeys
//! replace     strategic merge replaces the value          default=V   apply's default of a key field
//! set, map=a,b, atomic, granular                          how apply merges a list, map or struct
//! go=v1.T     the name clients see in type errors
//! ```

use std::collections::BTreeMap;
use std::sync::OnceLock;

const FILES: &[&str] = &[
    include_str!("table/meta.v1.tbl"),
    include_str!("table/core.v1.tbl"),
    include_str!("table/core.v1.volumes.tbl"),
    include_str!("table/admission.v1.tbl"),
    include_str!("table/admissionregistration.v1.tbl"),
    include_str!("table/apiextensions.v1.tbl"),
    include_str!("table/apiregistration.v1.tbl"),
    include_str!("table/apps.v1.tbl"),
    include_str!("table/authentication.v1.tbl"),
    include_str!("table/authorization.v1.tbl"),
    include_str!("table/autoscaling.v1.tbl"),
    include_str!("table/autoscaling.v2.tbl"),
    include_str!("table/batch.v1.tbl"),
    include_str!("table/certificates.v1.tbl"),
    include_str!("table/coordination.v1.tbl"),
    include_str!("table/discovery.v1.tbl"),
    include_str!("table/events.v1.tbl"),
    include_str!("table/flowcontrol.v1.tbl"),
    include_str!("table/networking.v1.tbl"),
    include_str!("table/node.v1.tbl"),
    include_str!("table/policy.v1.tbl"),
    include_str!("table/rbac.v1.tbl"),
    include_str!("table/scheduling.v1.tbl"),
    include_str!("table/storage.v1.tbl"),
];

/// Index of a message in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId(usize);

/// The type of one value (of one element, for lists and maps).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Int32,
    Int64,
    Bool,
    Double,
    Bytes,
    Strings,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    Raw,
    Fields,
    Json,
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStrings,
    Message(MessageId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    One,
    List,
    /// From string to the type.
    Map,
}

/// How strategic merge treats a list or struct beyond the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// Lists are merged, not replaced.
    pub merge: bool,
    /// Key of list elements; None for lists of scalars.
    pub key: Option<&'static str>,
    pub retain_keys: bool,
    /// The value is replaced as a whole although it is an object.
    pub replace: bool,
}

/// How apply treats a list, map or struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// What the shape implies: lists atomic, maps and structs granular.
    Implied,
    Atomic,
    Granular,
    Set,
    /// A list of objects told apart by these keys.
    Keyed(Vec<&'static str>),
}

#[derive(Debug)]
pub struct Field {
    pub number: u32,
    /// "" for inline fields.
    pub name: &'static str,
    pub ty: Type,
    pub shape: Shape,
    pub pointer: bool,
    pub always: bool,
    pub optional: bool,
    pub inline: bool,
    pub merge: Merge,
    pub topology: Topology,
    pub default: Option<&'static str>,
    pub go: Option<&'static str>,
}

impl Field {
    /// A client may leave the field out (what OpenAPI calls not required).
    pub fn is_required(&self) -> bool {
        self.always && !self.optional
    }
}

#[derive(Debug)]
pub struct Message {
    /// "core.v1.Pod".
    pub name: &'static str,
    /// Set for roots: the apiVersion they appear under.
    pub api_version: Option<&'static str>,
    /// Apply treats the whole value as one.
    pub atomic: bool,
    pub fields: Vec<Field>,
    /// Indices into `fields`, ordered by protobuf number.
    pub wire_order: Vec<usize>,
}

impl Message {
    /// "Pod" of "core.v1.Pod".
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The type's name in Go's error texts: "v1.Pod".
    pub fn go_name(&self) -> String {
        let mut parts = self.name.rsplit('.');
        let short = parts.next().unwrap_or_default();
        let version = parts.next().unwrap_or_default();
        format!("{version}.{short}")
    }

    /// The field behind a JSON name, looking through inlined messages.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let table = table();
        let own = table.message(table.by_name[self.name]);
        own.fields
            .iter()
            .find_map(|field| match (field.inline, field.ty) {
                (true, Type::Message(id)) => table.message(id).field(name),
                _ => (field.name == name).then_some(field),
            })
    }

    pub fn by_number(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    /// A root with ObjectMeta, i.e. not a list and not a bare options type.
    pub fn has_object_meta(&self) -> bool {
        let table = table();
        self.fields.iter().any(|field| {
            field.name == "metadata"
                && matches!(field.ty, Type::Message(id) if table.message(id).name == "meta.v1.ObjectMeta")
        })
    }
}

#[derive(Debug)]
pub struct Table {
    messages: Vec<Message>,
    by_name: BTreeMap<&'static str, MessageId>,
    /// (apiVersion, kind) → message.
    roots: BTreeMap<(&'static str, &'static str), MessageId>,
}

impl Table {
    pub fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }

    pub fn by_name(&self, name: &str) -> Option<&Message> {
        self.by_name.get(name).map(|id| self.message(*id))
    }

    /// The root an object names. Status, the options types and metadata-only objects exist under every apiVersion.
    pub fn root(&self, api_version: &str, kind: &str) -> Option<&Message> {
        if let Some(id) = self.roots.get(&(api_version, kind)) {
            return Some(self.message(*id));
        }
        const ANYWHERE: &[&str] = &[
            "Status",
            "DeleteOptions",
            "CreateOptions",
            "UpdateOptions",
            "PatchOptions",
            "GetOptions",
            "ListOptions",
            "WatchEvent",
            "APIGroup",
            "APIGroupList",
            "APIResourceList",
            "APIVersions",
            "PartialObjectMetadata",
            "PartialObjectMetadataList",
            "List",
        ];
        if ANYWHERE.contains(&kind) {
            self.by_name(&format!("meta.v1.{kind}"))
        } else {
            None
        }
    }

    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }
}

/// The one table.
pub fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(FILES))
}

/// Panics on a malformed line: the data is part of the program.
fn parse(files: &[&'static str]) -> Table {
    let lines = || {
        files
            .iter()
            .flat_map(|file| file.lines())
            .filter(|line| !line.starts_with('#') && !line.is_empty())
    };
    let mut by_name = BTreeMap::new();
    for line in lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            let name = rest.split(' ').next().unwrap_or_default();
            let id = MessageId(by_name.len());
            assert!(
                by_name.insert(name, id).is_none(),
                "type {name} is in the table twice"
            );
        }
    }
    let mut messages: Vec<Message> = Vec::with_capacity(by_name.len());
    let mut roots = BTreeMap::new();
    for line in lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            let mut words = rest.split(' ');
            let name = words.next().unwrap_or_default();
            let mut message = Message {
                name,
                api_version: None,
                atomic: false,
                fields: Vec::new(),
                wire_order: Vec::new(),
            };
            for word in words {
                match word.split_once('=') {
                    Some(("kind", version)) => message.api_version = Some(version),
                    None if word == "atomic" => message.atomic = true,
                    _ => panic!("table: unknown mark {word} on type {name}"),
                }
            }
            if let Some(version) = message.api_version {
                roots.insert((version, message.short_name()), by_name[name]);
            }
            assert!(
                by_name[name] == MessageId(messages.len()),
                "types are numbered in file order"
            );
            messages.push(message);
        } else {
            let message = messages
                .last_mut()
                .expect("table: a field before the first type");
            let field = parse_field(line, message.name, &by_name);
            message.fields.push(field);
        }
    }
    for message in &mut messages {
        let mut order: Vec<usize> = (0..message.fields.len()).collect();
        order.sort_by_key(|index| message.fields[*index].number);
        message.wire_order = order;
    }
    Table {
        messages,
        by_name,
        roots,
    }
}

fn parse_field(
    line: &'static str,
    owner: &'static str,
    by_name: &BTreeMap<&'static str, MessageId>,
) -> Field {
    let mut words = line.split(' ');
    let mut word = || {
        words
            .next()
            .unwrap_or_else(|| panic!("table: short line {line:?} in {owner}"))
    };
    let (number, name, ty) = (word(), word(), word());
    let (shape, ty) = match (ty.strip_prefix("[]"), ty.strip_prefix("{}")) {
        (Some(element), _) => (Shape::List, element),
        (_, Some(element)) => (Shape::Map, element),
        _ => (Shape::One, ty),
    };
    let mut field = Field {
        number: number
            .parse()
            .unwrap_or_else(|_| panic!("table: bad number in {line:?}")),
        name: if name == "-" { "" } else { name },
        ty: parse_type(ty, owner, by_name),
        shape,
        pointer: false,
        always: false,
        optional: false,
        inline: false,
        merge: Merge::default(),
        topology: Topology::Implied,
        default: None,
        go: None,
    };
    for mark in words {
        match (mark, mark.split_once('=')) {
            ("ptr", _) => field.pointer = true,
            ("always", _) => field.always = true,
            ("optional", _) => field.optional = true,
            ("inline", _) => field.inline = true,
            ("merge", _) => field.merge.merge = true,
            ("retain", _) => field.merge.retain_keys = true,
            ("replace", _) => field.merge.replace = true,
            ("set", _) => field.topology = Topology::Set,
            ("atomic", _) => field.topology = Topology::Atomic,
            ("granular", _) => field.topology = Topology::Granular,
            (_, Some(("merge", key))) => {
                field.merge.merge = true;
                field.merge.key = Some(key);
            }
            (_, Some(("map", keys))) => field.topology = Topology::Keyed(keys.split(',').collect()),
            (_, Some(("default", value))) => field.default = Some(value),
            (_, Some(("go", name))) => field.go = Some(name),
            _ => panic!("table: unknown mark {mark} in {line:?} of {owner}"),
        }
    }
    assert!(
        field.inline == field.name.is_empty(),
        "table: only inline fields have no name ({line:?} in {owner})"
    );
    field
}

fn parse_type(word: &str, owner: &str, by_name: &BTreeMap<&'static str, MessageId>) -> Type {
    match word {
        "string" => Type::String,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "bool" => Type::Bool,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "strings" => Type::Strings,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "quantity" => Type::Quantity,
        "int-or-string" => Type::IntOrString,
        "raw" => Type::Raw,
        "fields" => Type::Fields,
        "json" => Type::Json,
        "schema-or-bool" => Type::SchemaOrBool,
        "schema-or-array" => Type::SchemaOrArray,
        "schema-or-strings" => Type::SchemaOrStrings,
        name => {
            let full = match name.strip_prefix('.') {
                Some(short) => {
                    let group = owner
                        .rsplit_once('.')
                        .map(|(group, _)| group)
                        .unwrap_or_default();
                    format!("{group}.{short}")
                }
                None => name.to_owned(),
            };
            Type::Message(
                *by_name
                    .get(full.as_str())
                    .unwrap_or_else(|| panic!("table: no type {full} (in {owner})")),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_number_is_used_once_and_every_root_is_found() {
        for message in table().messages() {
            let mut numbers: Vec<u32> = message.fields.iter().map(|field| field.number).collect();
            numbers.sort_unstable();
            let before = numbers.len();
            numbers.dedup();
            assert_eq!(
                before,
                numbers.len(),
                "{} uses a number twice",
                message.name
            );
            if let Some(version) = message.api_version {
                let found = table()
                    .root(version, message.short_name())
                    .expect("a root is found by its own name");
                assert_eq!(found.name, message.name);
            }
        }
        for kind in crate::kinds() {
            assert!(
                table().root(&kind.api_version(), kind.kind).is_some(),
                "{} is served but unknown",
                kind.kind
            );
            assert!(
                table().root(&kind.api_version(), &kind.list_kind).is_some(),
                "{} has no list",
                kind.kind
            );
        }
    }

    #[test]
    fn inlined_fields_are_found_by_their_json_name() {
        let probe = table().by_name("core.v1.Probe").expect("in the table");
        assert_eq!(probe.field("httpGet").map(|field| field.number), Some(2));
        assert_eq!(
            probe.field("periodSeconds").map(|field| field.number),
            Some(4)
        );
        assert!(probe.field("handler").is_none());
    }
}
