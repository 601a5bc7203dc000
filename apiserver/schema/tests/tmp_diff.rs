use serde_json::Value;
use base64::Engine;
fn diff(path: &str, a: &Value, b: &Value, out: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for (k, v) in x { match y.get(k) { Some(w) => diff(&format!("{path}.{k}"), v, w, out), None => out.push(format!("{path}.{k}: ours only {v}")) } }
            for (k, v) in y { if !x.contains_key(k) { out.push(format!("{path}.{k}: go only {v}")) } }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => { for (i,(v,w)) in x.iter().zip(y).enumerate() { diff(&format!("{path}[{i}]"), v, w, out) } }
        _ => if a != b && !(a.is_number() && a.as_f64()==b.as_f64()) { out.push(format!("{path}: ours {a} go {b}")) }
    }
}
#[test]
fn against_go() {
    let text = std::fs::read_to_string("/tmp/s_gen/fz.jsonl").unwrap();
    let mut bad = std::collections::BTreeMap::<String, usize>::new();
    let mut n = 0;
    for line in text.lines() {
        let v: Value = serde_json::from_str(line).unwrap();
        let k = v["k"].as_str().unwrap();
        let pb = base64::engine::general_purpose::STANDARD.decode(v["pb"].as_str().unwrap()).unwrap();
        n += 1;
        let ours = match barque_apiserver_schema::decode_protobuf(&pb) { Ok(o) => o, Err(e) => { *bad.entry(format!("{k} decode {e}")).or_default() += 1; continue } };
        let mut out = vec![];
        diff("", &ours, &v["json"], &mut out);
        for o in out { *bad.entry(format!("{k} J {o}")).or_default() += 1; }
        match barque_apiserver_schema::encode_protobuf(&v["json"]) {
            Ok(b) => if b != pb { *bad.entry(format!("{k} bytes differ")).or_default() += 1; },
            Err(e) => { *bad.entry(format!("{k} encode {e}")).or_default() += 1; }
        }
        // normalise: go json is a fixed point
        if let Some((gv, kind)) = k.split_once('|') {
            let (g, ver) = gv.split_once('/').unwrap_or(("", gv));
            if let Some(kk) = barque_apiserver_schema::by_kind(g, ver, kind) {
                let mut o = v["json"].clone();
                barque_apiserver_schema::drop_unknown(kk, &mut o);
                let mut out = vec![];
                diff("", &o, &v["json"], &mut out);
                for x in out { *bad.entry(format!("{k} N {x}")).or_default() += 1; }
                if let Some(e) = barque_apiserver_schema::type_errors(kk, &v["json"]) { *bad.entry(format!("{k} type {e}")).or_default() += 1; }
                let u = barque_apiserver_schema::unknown_fields(kk, v["json"].to_string().as_bytes());
                if !u.is_empty() { *bad.entry(format!("{k} unk {u:?}")).or_default() += 1; }
            }
        }
    }
    for (b, c) in bad.iter().take(60) { println!("{c} {b}"); }
    println!("{n} objects, {} findings", bad.len());
}
#[test]
fn defaults_against_go() {
    let a = std::fs::read_to_string("/tmp/s_gen/def_in.jsonl").unwrap();
    let b = std::fs::read_to_string("/tmp/s_gen/def_out.jsonl").unwrap();
    let mut bad = std::collections::BTreeMap::<String, usize>::new();
    for (x, y) in a.lines().zip(b.lines()) {
        let mut x: Value = serde_json::from_str(x).unwrap();
        let y: Value = serde_json::from_str(y).unwrap();
        let k = format!("{} {}", x["apiVersion"], x["kind"]);
        let av = x["apiVersion"].as_str().unwrap().to_owned();
        let (g, ver) = av.split_once('/').unwrap_or(("", &av));
        let kk = barque_apiserver_schema::by_kind(g, ver, x["kind"].as_str().unwrap()).unwrap();
        barque_apiserver_schema::drop_unknown(kk, &mut x);
        barque_apiserver_schema::apply_defaults(kk, &mut x);
        let once = x.clone();
        barque_apiserver_schema::apply_defaults(kk, &mut x);
        assert_eq!(once, x);
        let mut out = vec![];
        diff("", &x, &y, &mut out);
        for o in out { *bad.entry(format!("{k} {o}")).or_default() += 1; }
    }
    for (b, c) in bad.iter().take(60) { println!("{c} {b}"); }
    println!("{} findings", bad.len());
}
#[test]
fn merge_against_go() {
    let mut bad = 0;
    for f in ["/tmp/s_gen/sm_cases_out.jsonl", "/tmp/s_gen/sm_fuzz.jsonl"] {
    for line in std::fs::read_to_string(f).unwrap().lines() {
        let v: Value = serde_json::from_str(line).unwrap();
        let kind = v["kind"].as_str().unwrap();
        let kk = barque_apiserver_schema::kinds().iter().find(|k| k.kind == kind).unwrap();
        let ours = barque_apiserver_schema::strategic_merge(kk, &v["original"], &v["patch"]);
        match (ours, v.get("result")) {
            (Ok(o), Some(r)) => { let mut out = vec![]; diff("", &o, r, &mut out); if !out.is_empty() { bad += 1; if bad < 12 { println!("{out:?}\n  {}\n", v["patch"]); } } }
            (Err(e), None) => println!("both err: {e} | {}", v["error"]),
            (o, _) => { bad += 1; println!("{o:?} {}", line) }
        }
    } }
    println!("{bad} bad");
}
