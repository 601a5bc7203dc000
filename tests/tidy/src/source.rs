//! Rust source as the rules see it: without comments, without the contents of literals, and without test code.
//! Promise: lines keep their numbers.

/// A Rust file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root of the workspace.
    pub path: String,
    pub text: String,
    /// `text` with comments and literals blanked.
    pub code: String,
    /// `code` with items under `#[cfg(test)]` blanked; empty for files that are tests as a whole.
    pub shipped: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = strip(text);
        let shipped = if is_test_path(path) {
            String::new()
        } else {
            without_tests(&code)
        };
        Source {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            shipped,
        }
    }

    /// Modules declared as `#[cfg(test)] mod name;`: paths (without extension) of the files they may be.
    pub fn test_modules(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (start, end) in test_items(&self.code) {
            let item = &self.code[start..end];
            let words: Vec<&str> = item
                .rsplit(']')
                .next()
                .unwrap_or_default()
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .filter(|word| !word.is_empty())
                .collect();
            if item.ends_with(';')
                && let Some(at) = words.iter().position(|word| *word == "mod")
                && let Some(name) = words.get(at + 1)
            {
                out.push(format!("{}/{name}", self.module_dir()));
            }
        }
        out
    }

    /// Where files of this module's submodules lie.
    fn module_dir(&self) -> String {
        let (dir, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        match file {
            "lib.rs" | "main.rs" | "mod.rs" => dir.to_owned(),
            _ => format!("{dir}/{}", file.trim_end_matches(".rs")),
        }
    }
}

/// Files that only tests are made of, by their place.
fn is_test_path(path: &str) -> bool {
    let mut parts = path.split('/').rev();
    let file = parts.next().unwrap_or_default();
    // `tests/<crate>` at the top are the test crates themselves.
    path.starts_with("tests/")
        || matches!(file, "tests.rs" | "build.rs")
        || parts.any(|part| part == "tests" || part == "benches")
}

/// Makes the files of test modules count as tests, in place.
pub fn mark_test_modules(sources: &mut [Source]) {
    // A module of a test module is one as well, but its files lie below it, so one pass is enough.
    let modules: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources {
        let of_test = modules.iter().any(|module| {
            source.path == format!("{module}.rs") || source.path.starts_with(&format!("{module}/"))
        });
        if of_test {
            source.shipped.clear();
        }
    }
}

/// Replaces comments and the contents of literals by spaces.
pub fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_end(bytes, at),
            b'"' => quoted_end(bytes, at, b'"'),
            b'r' if !word_before(bytes, at) || matches!(bytes[at - 1], b'b' | b'c') => {
                match raw_end(bytes, at) {
                    Some(end) => end,
                    None => {
                        at += 1;
                        continue;
                    }
                }
            }
            b'\'' if is_char(bytes, at) => quoted_end(bytes, at, b'\''),
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn word_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes[at..].iter().position(|byte| *byte == b'\n');
    rest.map_or(bytes.len(), |len| at + len)
}

fn block_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => {
                depth += 1;
                at += 2;
            }
            Some(b"*/") => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a raw string that begins at this `r`, if one does.
fn raw_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let rest = &bytes[open + 1..];
    let len = rest.windows(close.len()).position(|window| window == close);
    Some(len.map_or(bytes.len(), |len| open + 1 + len + close.len()))
}

/// Tells a character literal from a lifetime.
fn is_char(bytes: &[u8], at: usize) -> bool {
    match bytes.get(at + 1) {
        Some(b'\\') => true,
        Some(byte) if byte.is_ascii() => bytes.get(at + 2) == Some(&b'\''),
        // Beyond ASCII it is one character of two to four bytes.
        Some(_) => (3..=5).any(|len| bytes.get(at + len) == Some(&b'\'')),
        None => false,
    }
}

/// Ranges of the items under `#[cfg(test)]` and the like, in stripped code.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(") {
        let start = from + found;
        let condition: String = code[start + 6..]
            .chars()
            .filter(|c| !c.is_whitespace())
            .take(12)
            .collect();
        let is_test = ["test)", "test,", "any(test,", "all(test,"]
            .iter()
            .any(|prefix| condition.starts_with(prefix));
        from = start + 6;
        if is_test {
            let end = item_end(code, start);
            out.push((start, end));
            from = end;
        }
    }
    out
}

fn without_tests(code: &str) -> String {
    let mut out = code.as_bytes().to_vec();
    for (start, end) in test_items(code) {
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the item that begins with the attribute at `start`: its `;`, or the brace that closes its body.
fn item_end(code: &str, start: usize) -> usize {
    let (mut round, mut curly) = (0_i32, 0_i32);
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' => curly += 1,
            b'}' => {
                curly -= 1;
                if curly <= 0 {
                    return at + 1;
                }
            }
            b';' if round == 0 && curly == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lines_stay() {
        let text = "let a = \"tokio \\\" x\"; // tokio\n/* tokio /* */ tokio */ let b = r#\"tokio\" \"#;\nlet c = '\"'; let d: &'static str = b\"tokio\";\n";
        let code = strip(text);
        assert!(!code.contains("tokio"), "{code}");
        assert_eq!(code.lines().count(), 3);
        assert!(
            code.contains("let b =") && code.contains("let c =") && code.contains("'static str")
        );
    }

    #[test]
    fn names_ending_in_r_are_not_raw_strings() {
        assert!(strip("for x in iter\"a\" tokio").contains("tokio"));
        assert!(strip("br\"tokio\" x").ends_with(" x"));
        assert!(!strip("br\"tokio\" x").contains("tokio"));
        assert!(strip("let c = 'é'; tokio").contains("tokio"));
    }

    #[test]
    fn test_code_is_left_out() {
        let text = "use a::b;\n#[cfg(test)]\nmod tests { use std::fs; fn f() { { } } }\nfn after() {}\n#[cfg(any(test, feature = \"testing\"))]\npub mod testing;\n#[cfg(test)]\nuse std::net::{TcpStream, TcpListener};\nfn last() {}\n#[cfg(not(test))] fn shipped() {}\n";
        let source = Source::new("a/b/src/lib.rs", text);
        for name in ["fs", "TcpListener"] {
            assert!(!source.shipped.contains(name), "{}", source.shipped);
        }
        for name in ["after", "last", "shipped"] {
            assert!(source.shipped.contains(name), "{}", source.shipped);
        }
        assert_eq!(source.test_modules(), ["a/b/src/testing"]);
        assert_eq!(source.shipped.lines().count(), text.lines().count());
        let mut sources = [source, Source::new("a/b/src/testing/x.rs", "use std::fs;")];
        mark_test_modules(&mut sources);
        assert_eq!(sources[1].shipped, "");
        assert!(!sources[0].shipped.is_empty());
    }

    #[test]
    fn whole_files_can_be_tests() {
        for path in [
            "a/b/src/tests.rs",
            "a/b/tests/x.rs",
            "a/b/src/tests/x.rs",
            "tests/sim/src/lib.rs",
        ] {
            assert_eq!(Source::new(path, "use std::fs;").shipped, "", "{path}");
        }
        assert_ne!(
            Source::new("a/b/src/test_results.rs", "use std::fs;").shipped,
            ""
        );
    }
}
