//! The map: objects with revisions and a history that watches read. Owns the API's rules as far as agents can see them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// group/resource, namespace, name.
pub(super) type Address = (String, String, String);

/// What to do wrong. All counters count down.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Every n-th update, patch or delete is a conflict (0: never).
    pub conflict_every: u64,
    /// The next n writes are done, and their answers lost.
    pub lose_answers: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub revision: i64,
    pub address: Address,
    /// None: created.
    pub old: Option<Value>,
    /// None: deleted; `old` then carries the revision of the deletion.
    pub new: Option<Value>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    pub objects: BTreeMap<Address, Value>,
    pub history: Vec<Happening>,
    pub compacted: i64,
    pub revision: i64,
    pub faults: Faults,
    writes: u64,
    names: u64,
    /// group/resource names that answer 404.
    pub not_served: Vec<String>,
}

/// A refusal: code, reason, message.
#[derive(Debug)]
pub(super) struct Refusal(pub u16, pub &'static str, pub String);

/// The state all masters of a test share.
#[derive(Clone)]
pub struct Cluster {
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) revisions: Arc<watch::Sender<i64>>,
}

impl Default for Cluster {
    fn default() -> Cluster {
        let store = Store {
            revision: 1,
            ..Store::default()
        };
        Cluster {
            store: Arc::new(Mutex::new(store)),
            revisions: Arc::new(watch::channel(1).0),
        }
    }
}

impl Cluster {
    pub(super) fn lock(&self) -> MutexGuard<'_, Store> {
        self.store
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn write<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.lock();
        let answer = act(&mut store);
        self.revisions.send_replace(store.revision);
        answer
    }

    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// The named `group/resource` is not served.
    pub fn stop_serving(&self, resource: &str) {
        self.lock().not_served.push(resource.to_owned());
    }

    /// Forgets the history: watches cannot resume below the current revision.
    pub fn compact(&self) {
        let mut store = self.lock();
        store.compacted = store.revision;
        store.history.clear();
    }

    pub fn revision(&self) -> i64 {
        self.lock().revision
    }

    /// Reads past the API: all objects of `resource` (e.g. "pods" or "apps/deployments").
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let resource = canonical(resource);
        let store = self.lock();
        let found = store
            .objects
            .iter()
            .filter(|((group, _, _), _)| *group == resource);
        found.map(|(_, object)| object.clone()).collect()
    }

    pub fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let address = (canonical(resource), namespace.to_owned(), name.to_owned());
        self.lock().objects.get(&address).cloned()
    }

    /// All changes so far: revision, resource, name, and the new object unless deleted.
    pub fn history(&self) -> Vec<(i64, String, String, Option<Value>)> {
        let store = self.lock();
        let entry = |happening: &Happening| {
            let (resource, _, name) = happening.address.clone();
            (happening.revision, resource, name, happening.new.clone())
        };
        store.history.iter().map(entry).collect()
    }

    /// Writes past the API's faults, as a user would: creates.
    pub fn create(&self, resource: &str, namespace: &str, object: Value) -> Value {
        let resource = canonical(resource);
        self.write(|store| store.create(&resource, namespace, object))
            .unwrap_or_else(|refusal| panic!("{}", refusal.2))
    }

    /// Changes an object as a user would, whatever its resourceVersion.
    pub fn modify(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Value {
        let address = (canonical(resource), namespace.to_owned(), name.to_owned());
        self.write(|store| {
            let mut object = store
                .objects
                .get(&address)
                .cloned()
                .unwrap_or_else(|| panic!("no {address:?}"));
            change(&mut object);
            store.put(&address, object, Part::Everything)
        })
        .unwrap_or_else(|refusal| panic!("{}", refusal.2))
    }

    /// Deletes as a user would.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str, options: Value) {
        let address = (canonical(resource), namespace.to_owned(), name.to_owned());
        self.write(|store| store.delete(&address, &options))
            .map(|_| ())
            .unwrap_or_else(|refusal| panic!("{}", refusal.2));
    }
}

/// "pods" is "/pods": the group always stands before the slash.
pub(super) fn canonical(resource: &str) -> String {
    match resource.contains('/') {
        true => resource.to_owned(),
        false => format!("/{resource}"),
    }
}

/// Which part of an object a write may change.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    /// Test code only.
    Everything,
    Main,
    Status,
}

const WITH_STATUS: &[&str] = &[
    "/pods",
    "/nodes",
    "/namespaces",
    "apps/deployments",
    "apps/replicasets",
];

impl Store {
    pub fn check_served(&self, resource: &str) -> Result<(), Refusal> {
        if self
            .not_served
            .iter()
            .any(|name| canonical(name) == resource)
        {
            return Err(Refusal(
                404,
                "NotFound",
                "the server could not find the requested resource".to_owned(),
            ));
        }
        Ok(())
    }

    /// Counts a guarded write, and makes it fail when its turn has come.
    pub fn trip(&mut self) -> Result<(), Refusal> {
        self.writes += 1;
        let every = self.faults.conflict_every;
        if every > 0 && self.writes.is_multiple_of(every) {
            return Err(conflict("storm"));
        }
        Ok(())
    }

    pub fn find(&self, address: &Address) -> Result<Value, Refusal> {
        let missing = || {
            Refusal(
                404,
                "NotFound",
                format!("{} {:?} not found", address.0, address.2),
            )
        };
        self.objects.get(address).cloned().ok_or_else(missing)
    }

    pub fn create(
        &mut self,
        resource: &str,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, Refusal> {
        let with_status = WITH_STATUS.contains(&resource);
        self.names += 1;
        let number = self.names;
        let meta = meta_mut(&mut object);
        if text(meta, "name").is_empty() {
            let prefix = text(meta, "generateName").to_owned();
            meta.insert("name".to_owned(), format!("{prefix}{number:05}").into());
        }
        let name = text(meta, "name").to_owned();
        if !namespace.is_empty() {
            meta.insert("namespace".to_owned(), namespace.into());
        }
        meta.insert("uid".to_owned(), format!("uid-{number}").into());
        meta.insert("creationTimestamp".to_owned(), now().into());
        meta.remove("resourceVersion");
        if with_status {
            meta.insert("generation".to_owned(), 1.into());
        }
        let address = (resource.to_owned(), namespace.to_owned(), name.clone());
        if self.objects.contains_key(&address) {
            return Err(Refusal(
                409,
                "AlreadyExists",
                format!("{resource} {name:?} already exists"),
            ));
        }
        let ns = (
            "/namespaces".to_owned(),
            String::new(),
            namespace.to_owned(),
        );
        if self
            .objects
            .get(&ns)
            .is_some_and(|ns| ns["metadata"]["deletionTimestamp"].is_string())
        {
            return Err(Refusal(
                403,
                "Forbidden",
                format!("namespace {namespace} is being terminated"),
            ));
        }
        match resource {
            "/pods" => {
                let spec = object["spec"].as_object().cloned().unwrap_or_default();
                object["spec"]["terminationGracePeriodSeconds"] = spec
                    .get("terminationGracePeriodSeconds")
                    .cloned()
                    .unwrap_or(30.into());
                object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"});
            }
            "/namespaces" => {
                object["spec"] = json!({"finalizers": ["kubernetes"]});
                object["status"] = json!({"phase": "Active"});
            }
            _ => {}
        }
        self.record(address, Some(object))
    }

    /// Replaces `part` of an object. The resourceVersion in `object`, if any, must be the current one.
    pub fn put(&mut self, address: &Address, object: Value, part: Part) -> Result<Value, Refusal> {
        let old = self.find(address)?;
        let mut new = object;
        for field in ["resourceVersion", "uid"] {
            let asked = new["metadata"][field].as_str().unwrap_or_default();
            if !asked.is_empty()
                && part != Part::Everything
                && Some(asked) != old["metadata"][field].as_str()
            {
                return Err(conflict(&address.2));
            }
        }
        match part {
            Part::Everything => {}
            Part::Status => {
                let status = new["status"].take();
                new = old.clone();
                new["status"] = status;
            }
            Part::Main => {
                if WITH_STATUS.contains(&address.0.as_str()) {
                    match old.get("status") {
                        Some(status) => new["status"] = status.clone(),
                        None => {
                            new.as_object_mut().map(|fields| fields.remove("status"));
                        }
                    }
                }
                for field in [
                    "uid",
                    "creationTimestamp",
                    "generation",
                    "deletionTimestamp",
                    "deletionGracePeriodSeconds",
                ] {
                    match old["metadata"].get(field) {
                        Some(value) => new["metadata"][field] = value.clone(),
                        None => {
                            meta_mut(&mut new).remove(field);
                        }
                    }
                }
            }
        }
        if part != Part::Status
            && WITH_STATUS.contains(&address.0.as_str())
            && new.get("spec").unwrap_or(&Value::Null) != old.get("spec").unwrap_or(&Value::Null)
        {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = generation.into();
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        if new == old {
            return Ok(old);
        }
        let deleting = new["metadata"]["deletionTimestamp"].is_string();
        let held = |object: &Value| {
            object["metadata"]["finalizers"]
                .as_array()
                .is_some_and(|list| !list.is_empty())
        };
        let graceful = new["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or(0)
            > 0;
        if deleting && !held(&new) && !graceful && address.0 != "/namespaces" {
            return self.record(address.clone(), None);
        }
        self.record(address.clone(), Some(new))
    }

    pub fn delete(&mut self, address: &Address, options: &Value) -> Result<Value, Refusal> {
        let mut object = self.find(address)?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if wanted.is_string() && *wanted != object["metadata"][field] {
                return Err(conflict(&address.2));
            }
        }
        let finalizer = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let already = object["metadata"]["deletionTimestamp"].is_string();
        if let (Some(finalizer), false) = (finalizer, already) {
            let finalizers = meta_mut(&mut object)
                .entry("finalizers")
                .or_insert(json!([]));
            if let Some(list) = finalizers.as_array_mut() {
                list.push(finalizer.into());
            }
        }
        let finished = matches!(
            object["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        );
        let bound = object["spec"]["nodeName"]
            .as_str()
            .is_some_and(|name| !name.is_empty());
        let grace = match address.0.as_str() {
            "/pods" if bound && !finished => options["gracePeriodSeconds"]
                .as_i64()
                .or(object["spec"]["terminationGracePeriodSeconds"].as_i64())
                .unwrap_or(30),
            _ => 0,
        };
        let held = object["metadata"]["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
        if address.0 == "/namespaces" {
            if !already {
                object["status"]["phase"] = "Terminating".into();
                object["metadata"]["deletionTimestamp"] = now().into();
                return self.record(address.clone(), Some(object));
            }
            return Ok(object);
        }
        if grace == 0 && !held {
            return self.record(address.clone(), None);
        }
        if already
            && object["metadata"]["deletionGracePeriodSeconds"]
                .as_i64()
                .unwrap_or(0)
                <= grace
        {
            return Ok(object);
        }
        object["metadata"]["deletionTimestamp"] = now().into();
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.record(address.clone(), Some(object))
    }

    /// `pods/NAME/binding`.
    pub fn bind(&mut self, address: &Address, binding: &Value) -> Result<Value, Refusal> {
        let mut pod = self.find(address)?;
        if pod["spec"]["nodeName"]
            .as_str()
            .is_some_and(|name| !name.is_empty())
        {
            return Err(Refusal(
                409,
                "Conflict",
                format!("pod {} is already assigned to a node", address.2),
            ));
        }
        if pod["metadata"]["deletionTimestamp"].is_string() {
            return Err(conflict(&address.2));
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        let scheduled =
            json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()});
        let conditions = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let others = conditions
            .into_iter()
            .filter(|condition| condition["type"] != "PodScheduled");
        pod["status"]["conditions"] = others.chain([scheduled]).collect();
        self.record(address.clone(), Some(pod))?;
        Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}))
    }

    /// `namespaces/NAME/finalize`: takes spec.finalizers; without any left the namespace goes.
    pub fn finalize(&mut self, address: &Address, object: &Value) -> Result<Value, Refusal> {
        let mut namespace = self.find(address)?;
        namespace["spec"]["finalizers"] = object["spec"]["finalizers"].clone();
        let held = namespace["spec"]["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
        let deleting = namespace["metadata"]["deletionTimestamp"].is_string();
        let gone = deleting && !held;
        self.record(address.clone(), (!gone).then_some(namespace))
    }

    fn record(&mut self, address: Address, new: Option<Value>) -> Result<Value, Refusal> {
        self.revision += 1;
        let revision = self.revision;
        let mut old = self.objects.remove(&address);
        let mut new = new;
        let answer = match &mut new {
            Some(new) => {
                new["metadata"]["resourceVersion"] = revision.to_string().into();
                self.objects.insert(address.clone(), new.clone());
                new.clone()
            }
            None => {
                if let Some(old) = &mut old {
                    old["metadata"]["resourceVersion"] = revision.to_string().into();
                }
                json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
            }
        };
        self.history.push(Happening {
            revision,
            address,
            old,
            new,
        });
        Ok(answer)
    }
}

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(target) = target {
        for (name, value) in fields {
            if value.is_null() {
                target.remove(name);
            } else {
                merge(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

fn conflict(name: &str) -> Refusal {
    let message =
        format!("Operation cannot be fulfilled on {name:?}: the object has been modified");
    Refusal(409, "Conflict", message)
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    let meta = &mut object["metadata"];
    if !meta.is_object() {
        *meta = json!({});
    }
    match meta {
        Value::Object(meta) => meta,
        _ => unreachable!("made an object just above"),
    }
}

fn text<'a>(meta: &'a Map<String, Value>, field: &str) -> &'a str {
    meta.get(field).and_then(Value::as_str).unwrap_or_default()
}
