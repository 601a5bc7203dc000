//! The paths that a piece of stripped code names, `use` trees unfolded.

/// A path such as `std::net::TcpStream`, and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub path: String,
    pub line: usize,
    /// Followed by `!`: a macro is called.
    pub is_macro: bool,
}

impl Name {
    /// Whether it names `what` or something in it.
    pub fn is_in(&self, what: &str) -> bool {
        let path = self.path.strip_prefix(what);
        path.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }

    /// Whether one of its parts is this identifier.
    pub fn has(&self, part: &str) -> bool {
        self.path.split("::").any(|p| p == part)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    PathSeparator,
    Open,
    Close,
    Comma,
    Star,
    Bang,
    Other,
}

/// Every path in the code, in order.
pub fn names(code: &str) -> Vec<Name> {
    let tokens = tokens(code);
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].0 {
            Token::Word(_) => at = path(&tokens, at, "", &mut out),
            _ => at += 1,
        }
    }
    out
}

/// Reads one path (or `use` tree) and returns the place after it.
fn path(tokens: &[(Token<'_>, usize)], mut at: usize, prefix: &str, out: &mut Vec<Name>) -> usize {
    let line = tokens[at].1;
    let mut path = prefix.to_owned();
    loop {
        match tokens.get(at).map(|(token, _)| *token) {
            Some(Token::Word(word)) => {
                if !path.is_empty() {
                    path.push_str("::");
                }
                path.push_str(word);
                at += 1;
            }
            // In a tree, `self` names the tree's own root; `*` whatever is in it.
            Some(Token::Star) => at += 1,
            Some(Token::Open) => {
                at += 1;
                loop {
                    match tokens.get(at).map(|(token, _)| *token) {
                        Some(Token::Word("self")) => {
                            out.push(Name {
                                path: path.clone(),
                                line: tokens[at].1,
                                is_macro: false,
                            });
                            at += 1;
                        }
                        Some(Token::Word("as")) => at += 2,
                        Some(Token::Word(_)) => at = self::path(tokens, at, &path, out),
                        Some(Token::Close) => return at + 1,
                        Some(_) => at += 1,
                        None => return at,
                    }
                }
            }
            _ => break,
        }
        match tokens.get(at).map(|(token, _)| *token) {
            Some(Token::PathSeparator)
                if matches!(
                    tokens.get(at + 1),
                    Some((Token::Word(_) | Token::Open | Token::Star, _))
                ) =>
            {
                at += 1;
            }
            _ => break,
        }
    }
    let is_macro = matches!(tokens.get(at), Some((Token::Bang, _)));
    out.push(Name {
        path,
        line,
        is_macro,
    });
    at
}

fn tokens(code: &str) -> Vec<(Token<'_>, usize)> {
    let mut out = Vec::new();
    let bytes = code.as_bytes();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let start = at;
        let token = match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 => {
                while at < bytes.len()
                    && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || bytes[at] >= 0x80)
                {
                    at += 1;
                }
                out.push((Token::Word(&code[start..at]), line));
                continue;
            }
            b':' if bytes.get(at + 1) == Some(&b':') => {
                at += 1;
                Token::PathSeparator
            }
            b'{' => Token::Open,
            b'}' => Token::Close,
            b',' => Token::Comma,
            b'*' => Token::Star,
            b'!' if bytes.get(at + 1) != Some(&b'=') => Token::Bang,
            _ => Token::Other,
        };
        at += 1;
        out.push((token, line));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(code: &str) -> Vec<String> {
        names(code).into_iter().map(|name| name.path).collect()
    }

    #[test]
    fn use_trees_are_unfolded() {
        assert_eq!(
            paths("use std::{fs, io::{self, Write as W}, net::*};"),
            ["use", "std::fs", "std::io", "std::io::Write", "std::net"]
        );
        assert_eq!(paths("use tokio;"), ["use", "tokio"]);
    }

    #[test]
    fn paths_in_expressions_and_types_are_found_with_their_lines() {
        let found = names(
            "fn f() {\n  std::fs::read::<u8>(x);\n  let y: Vec<tokio::time::Sleep> = a::B { c };\n}",
        );
        let line = |path: &str| {
            found
                .iter()
                .find(|name| name.path == path)
                .map(|name| name.line)
        };
        assert_eq!(line("std::fs::read"), Some(2));
        assert_eq!(line("tokio::time::Sleep"), Some(3));
        assert_eq!(line("a::B"), Some(3));
        assert_eq!(line("c"), Some(3));
    }

    #[test]
    fn macros_are_told_from_functions() {
        let found = names("todo(); a != b; std::todo!()");
        let macros: Vec<_> = found
            .iter()
            .filter(|name| name.is_macro)
            .map(|name| &*name.path)
            .collect();
        assert_eq!(macros, ["std::todo"]);
    }

    #[test]
    fn prefixes_end_at_parts() {
        let name = |path: &str| Name {
            path: path.into(),
            line: 1,
            is_macro: false,
        };
        assert!(name("std::fs").is_in("std::fs") && name("std::fs::File").is_in("std::fs"));
        assert!(!name("std::fsx").is_in("std::fs"));
        assert!(name("a::Instant::now").has("Instant") && !name("a::Instants").has("Instant"));
    }
}
