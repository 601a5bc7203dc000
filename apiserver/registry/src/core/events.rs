//! Events, in both of their versions: core/v1 and events.k8s.io/v1 name the same things differently.
//! Promise: rules and cells are the same for both; which names an object uses is seen from its apiVersion.
//! Not here: converting between the two (the gateway, which stores one of them).

use jiff::Timestamp;
use serde_json::Value;

use crate::access::{number, present, same, text};
use crate::columns::{self, NAME, text_column, wide_column};
use crate::field_error::{FieldError, quoted};
use crate::human;
use crate::strategy::{Column, Strategy};
use crate::{meta, names};

const REASON_BYTES_MAX: usize = 128;
const ACTION_BYTES_MAX: usize = 128;
const INSTANCE_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

pub struct Events;

const COLUMNS: &[Column] = &[
    text_column("Last Seen", "When the event was last recorded."),
    text_column("Type", "Normal or Warning."),
    text_column("Reason", "Why, in one word for machines."),
    text_column("Object", "What the event is about."),
    wide_column("Subobject", "The part of the object it is about."),
    wide_column("Source", "Who reported it."),
    text_column("Message", "What happened, for people."),
    wide_column("First Seen", "When the event was first recorded."),
    wide_column("Count", "How often it was recorded."),
    Column {
        priority: 1,
        ..NAME
    },
];

/// Where the two versions keep what they call differently.
struct Names {
    object: &'static str,
    message: &'static str,
    source: &'static str,
    first: &'static str,
    last: &'static str,
    count: &'static str,
    controller: &'static str,
}

const CORE: Names = Names {
    object: "involvedObject",
    message: "message",
    source: "source",
    first: "firstTimestamp",
    last: "lastTimestamp",
    count: "count",
    controller: "reportingComponent",
};
const NEW: Names = Names {
    object: "regarding",
    message: "note",
    source: "deprecatedSource",
    first: "deprecatedFirstTimestamp",
    last: "deprecatedLastTimestamp",
    count: "deprecatedCount",
    controller: "reportingController",
};

fn is_new(obj: &Value) -> bool {
    text(obj, "/apiVersion").starts_with("events.k8s.io/")
}

fn names_of(obj: &Value) -> &'static Names {
    if is_new(obj) { &NEW } else { &CORE }
}

fn at<'a>(obj: &'a Value, field: &str, rest: &str) -> &'a str {
    text(obj, &format!("/{field}{rest}"))
}

impl Strategy for Events {
    fn prepare_for_create(&self, _obj: &mut Value) {}
    fn prepare_for_update(&self, _new: &mut Value, _old: &Value) {}
    fn prepare_for_status_update(&self, _new: &mut Value, _old: &Value) {}

    fn validate(&self, obj: &Value) -> Vec<FieldError> {
        let mut errors = always_errors(obj);
        if is_new(obj) {
            errors.extend(meta::validate(obj, true, names::dns_subdomain));
            errors.extend(series_errors(obj));
            if text(obj, "/eventTime").is_empty() {
                errors.push(FieldError::required("eventTime", ""));
            }
            let kind = text(obj, "/type");
            if kind != "Normal" && kind != "Warning" {
                errors.push(FieldError::invalid(
                    "type",
                    "\"\"",
                    &format!("has invalid value: {kind}"),
                ));
            }
            for (field, shown) in [
                (NEW.first, "firstTimestamp"),
                (NEW.last, "lastTimestamp"),
                (NEW.count, "count"),
            ] {
                let set = present(obj, &format!("/{field}")).is_some_and(|value| value != 0);
                if set {
                    errors.push(FieldError::invalid(shown, "\"\"", "needs to be unset"));
                }
            }
            if !at(obj, NEW.source, "/component").is_empty()
                || !at(obj, NEW.source, "/host").is_empty()
            {
                errors.push(FieldError::invalid("source", "\"\"", "needs to be unset"));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = always_errors(new);
        if is_new(new) {
            errors.extend(meta::validate_update(new, old));
            if !same(new.get("series"), old.get("series")) {
                errors.extend(series_errors(new));
            }
            const FIXED: [(&str, &str); 13] = [
                ("regarding", "involvedObject"),
                ("reason", "reason"),
                ("note", "message"),
                ("deprecatedSource", "source"),
                ("deprecatedFirstTimestamp", "firstTimestamp"),
                ("deprecatedLastTimestamp", "lastTimestamp"),
                ("deprecatedCount", "count"),
                ("type", "type"),
                ("eventTime", "eventTime"),
                ("action", "action"),
                ("related", "related"),
                ("reportingController", "reportingController"),
                ("reportingInstance", "reportingInstance"),
            ];
            for (field, shown) in FIXED {
                errors.extend(meta::immutable(new, old, &format!("/{field}"), shown));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, obj: &Value, now: Timestamp) -> Vec<Value> {
        let names = names_of(obj);
        let since = |text: &str| human::since(text, now);
        let event_time = text(obj, "/eventTime");
        let first = match at(obj, names.first, "") {
            "" => since(event_time),
            first => since(first),
        };
        let mut last = match at(obj, names.last, "") {
            "" => first.clone(),
            last => since(last),
        };
        let mut count = number(obj, &format!("/{}", names.count)).max(0);
        if present(obj, "/series").is_some() {
            last = since(text(obj, "/series/lastObservedTime"));
            count = number(obj, "/series/count");
        } else if count == 0 {
            count = 1; // An event of its own carries no count.
        }
        let kind = at(obj, names.object, "/kind").to_lowercase();
        let target = match at(obj, names.object, "/name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            Value::from(last),
            Value::from(text(obj, "/type")),
            Value::from(text(obj, "/reason")),
            Value::from(target),
            Value::from(at(obj, names.object, "/fieldPath")),
            Value::from(source(obj, names)),
            Value::from(at(obj, names.message, "").trim()),
            Value::from(first),
            Value::from(count),
            columns::name(obj),
        ]
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let names = names_of(obj);
        let component = match at(obj, names.source, "/component") {
            "" => at(obj, names.controller, ""),
            component => component,
        };
        let object = |rest: &str| at(obj, names.object, rest).to_owned();
        let mut fields = columns::metadata_fields(obj);
        fields.extend([
            ("involvedObject.kind", object("/kind")),
            ("involvedObject.namespace", object("/namespace")),
            ("involvedObject.name", object("/name")),
            ("involvedObject.uid", object("/uid")),
            ("involvedObject.apiVersion", object("/apiVersion")),
            ("involvedObject.resourceVersion", object("/resourceVersion")),
            ("involvedObject.fieldPath", object("/fieldPath")),
            ("regarding.kind", object("/kind")),
            ("regarding.namespace", object("/namespace")),
            ("regarding.name", object("/name")),
            ("regarding.uid", object("/uid")),
            ("regarding.apiVersion", object("/apiVersion")),
            ("regarding.resourceVersion", object("/resourceVersion")),
            ("regarding.fieldPath", object("/fieldPath")),
            ("reason", text(obj, "/reason").to_owned()),
            (
                "reportingComponent",
                at(obj, names.controller, "").to_owned(),
            ),
            (
                "reportingController",
                at(obj, names.controller, "").to_owned(),
            ),
            ("source", component.to_owned()),
            ("type", text(obj, "/type").to_owned()),
        ]);
        fields
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        &[
            "metadata.name",
            "metadata.namespace",
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingComponent",
            "reportingController",
            "source",
            "type",
        ]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

/// "kubelet, node-1": the old fields first, the new ones where they are empty.
fn source(obj: &Value, names: &Names) -> String {
    let component = match at(obj, names.source, "/component") {
        "" => at(obj, names.controller, ""),
        component => component,
    };
    let host = match at(obj, names.source, "/host") {
        "" => text(obj, "/reportingInstance"),
        host => host,
    };
    if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    }
}

fn series_errors(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if present(obj, "/series").is_some() {
        if number(obj, "/series/count") < 2 {
            errors.push(FieldError::invalid(
                "series.count",
                "\"\"",
                "should be at least 2",
            ));
        }
        if text(obj, "/series/lastObservedTime").is_empty() {
            errors.push(FieldError::required("series.lastObservedTime", ""));
        }
    }
    errors
}

/// Rules for both versions. Events with an eventTime are of the new kind, whatever API they came through.
fn always_errors(obj: &Value) -> Vec<FieldError> {
    let names = names_of(obj);
    let mut errors = Vec::new();
    let namespace = text(obj, "/metadata/namespace");
    let involved = at(obj, names.object, "/namespace");
    let mismatch = || {
        FieldError::invalid(
            "involvedObject.namespace",
            &quoted(involved),
            "does not match event.namespace",
        )
    };
    if text(obj, "/eventTime").is_empty() {
        let agrees = if involved.is_empty() {
            ["", "default"].contains(&namespace)
        } else {
            involved == namespace
        };
        if !agrees {
            errors.push(mismatch());
        }
    } else {
        if involved.is_empty() && !["default", "kube-system"].contains(&namespace) {
            errors.push(mismatch());
        }
        let controller = at(obj, names.controller, "");
        if controller.is_empty() {
            errors.push(FieldError::required(names.controller, ""));
        }
        errors.extend(meta::invalid_each(
            names.controller,
            controller,
            crate::names::qualified_name(controller),
        ));
        let limits = [
            (
                "reportingInstance",
                text(obj, "/reportingInstance"),
                INSTANCE_BYTES_MAX,
                true,
            ),
            ("action", text(obj, "/action"), ACTION_BYTES_MAX, true),
            ("reason", text(obj, "/reason"), REASON_BYTES_MAX, true),
            ("message", at(obj, names.message, ""), NOTE_BYTES_MAX, false),
        ];
        for (field, given, bytes_max, required) in limits {
            if required && given.is_empty() {
                errors.push(FieldError::required(field, ""));
            }
            if given.len() > bytes_max {
                let why = format!("can have at most {bytes_max} characters");
                errors.push(FieldError::invalid(field, "\"\"", &why));
            }
        }
    }
    errors.extend(meta::invalid_each(
        "namespace",
        namespace,
        crate::names::dns_subdomain(namespace),
    ));
    errors
}
