//! Label and field selectors: their text, and whether an object matches.
//! Promise: a selector that parses never fails to match or not match; nothing is silently ignored.

use barque_apiserver_registry::Resource;
use serde_json::Value;

use crate::status::ApiError;

#[derive(Clone, Debug, PartialEq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    value: String,
    equal: bool,
}

/// Which objects of a resource are meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

impl Selection {
    pub fn parse(
        label_selector: &str,
        field_selector: &str,
        resource: &Resource,
    ) -> Result<Self, ApiError> {
        let fields = parse_fields(field_selector)?;
        let known = resource.strategy.selectable_fields();
        for term in &fields {
            let generic = term.field == "metadata.name"
                || (term.field == "metadata.namespace" && resource.kind.namespaced);
            if !generic && !known.contains(&term.field.as_str()) {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {}",
                    term.field
                )));
            }
        }
        Ok(Selection {
            labels: parse_labels(label_selector).map_err(|why| {
                ApiError::bad_request(format!("unable to parse requirement: {why}"))
            })?,
            fields,
        })
    }

    /// Matches everything.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name every match has.
    pub fn name(&self) -> Option<&str> {
        self.required("metadata.name")
    }
    pub fn namespace(&self) -> Option<&str> {
        self.required("metadata.namespace")
    }
    fn required(&self, field: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|term| term.equal && term.field == field)
            .map(|term| term.value.as_str())
    }

    pub fn matches(&self, object: &Value, resource: &Resource) -> bool {
        let labels = object.pointer("/metadata/labels");
        let label = |key: &str| labels.and_then(|labels| labels.get(key)?.as_str());
        if !self
            .labels
            .iter()
            .all(|requirement| requirement.matches(label(&requirement.key)))
        {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        let fields = resource.strategy.fields(object);
        self.fields.iter().all(|term| {
            let metadata = |name: &str| {
                object
                    .pointer("/metadata")
                    .and_then(|metadata| metadata.get(name)?.as_str())
                    .unwrap_or_default()
            };
            let value = match term.field.as_str() {
                "metadata.name" => metadata("name"),
                "metadata.namespace" => metadata("namespace"),
                field => fields
                    .iter()
                    .find(|(name, _)| *name == field)
                    .map_or("", |(_, value)| value.as_str()),
            };
            (value == term.value) == term.equal
        })
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|text| text.parse::<i64>().ok());
        match &self.operator {
            Operator::Exists => value.is_some(),
            Operator::Missing => value.is_none(),
            Operator::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
            // An object without the label does not have the value: it matches.
            Operator::NotIn(values) => value.is_none_or(|v| !values.iter().any(|x| x == v)),
            Operator::Greater(than) => number().is_some_and(|n| n > *than),
            Operator::Less(than) => number().is_some_and(|n| n < *than),
        }
    }
}

/// The `field=value` terms of a selector, for the authorizer; nothing where it does not parse (it is refused later).
pub fn equality_terms(field_selector: &str) -> Vec<(String, String)> {
    parse_fields(field_selector)
        .unwrap_or_default()
        .into_iter()
        .filter(|term| term.equal)
        .map(|term| (term.field, term.value))
        .collect()
}

fn parse_fields(text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    let mut terms = Vec::new();
    for part in split_unescaped(text) {
        if part.is_empty() {
            continue;
        }
        let (field, equal, value) = ["!=", "==", "="]
            .iter()
            .filter_map(|operator| Some((part.find(operator)?, *operator)))
            .min_by_key(|(at, operator)| (*at, std::cmp::Reverse(operator.len())))
            .map(|(at, operator)| (&part[..at], operator != "!=", &part[at + operator.len()..]))
            .ok_or_else(|| {
                ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                ))
            })?;
        terms.push(FieldTerm {
            field: field.trim().to_owned(),
            value: unescape(value)?,
            equal,
        });
    }
    Ok(terms)
}

/// Splits at commas that no backslash guards.
fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String, ApiError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                other => {
                    let tail: String = other.into_iter().collect();
                    return Err(ApiError::bad_request(format!(
                        "invalid field selector: invalid escape sequence: \\{tail}"
                    )));
                }
            },
            other => out.push(other),
        }
    }
    Ok(out)
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut tokens = Tokens { rest: text };
    let mut requirements = Vec::new();
    loop {
        match tokens.next() {
            Token::End if requirements.is_empty() => return Ok(requirements),
            Token::Not => {
                let key = tokens.key()?;
                requirements.push(Requirement {
                    key,
                    operator: Operator::Missing,
                });
            }
            Token::Word(key) => {
                check_key(key)?;
                let operator = tokens.operator()?;
                requirements.push(Requirement {
                    key: key.to_owned(),
                    operator,
                });
            }
            other => {
                return Err(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    other.text()
                ));
            }
        }
        match tokens.next() {
            Token::End => return Ok(requirements),
            Token::Comma => {}
            other => {
                return Err(format!(
                    "found '{}', expected: ',' or 'end of string'",
                    other.text()
                ));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Not,
    Equal,
    NotEqual,
    Greater,
    Less,
    Comma,
    Open,
    Close,
    End,
}

impl Token<'_> {
    fn text(self) -> String {
        match self {
            Token::Word(word) => word.to_owned(),
            Token::Not => "!".to_owned(),
            Token::Equal => "=".to_owned(),
            Token::NotEqual => "!=".to_owned(),
            Token::Greater => ">".to_owned(),
            Token::Less => "<".to_owned(),
            Token::Comma => ",".to_owned(),
            Token::Open => "(".to_owned(),
            Token::Close => ")".to_owned(),
            Token::End => String::new(),
        }
    }
}

struct Tokens<'a> {
    rest: &'a str,
}

const SPECIAL: &str = "=!,()<> \t\r\n";

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start();
        for (text, token) in [
            ("==", Token::Equal),
            ("!=", Token::NotEqual),
            ("=", Token::Equal),
            ("!", Token::Not),
            (">", Token::Greater),
            ("<", Token::Less),
            (",", Token::Comma),
            ("(", Token::Open),
            (")", Token::Close),
        ] {
            if let Some(rest) = self.rest.strip_prefix(text) {
                self.rest = rest;
                return token;
            }
        }
        let end = self
            .rest
            .find(|c| SPECIAL.contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() {
            Token::End
        } else {
            Token::Word(word)
        }
    }

    fn peek(&self) -> Token<'a> {
        Tokens { rest: self.rest }.next()
    }

    fn key(&mut self) -> Result<String, String> {
        match self.next() {
            Token::Word(key) => {
                check_key(key)?;
                Ok(key.to_owned())
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// One value; nothing at all is the empty value (`a=`).
    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            Token::Word(value) => {
                self.next();
                check_value(value)?;
                Ok(value.to_owned())
            }
            Token::Comma | Token::End | Token::Close => Ok(String::new()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn operator(&mut self) -> Result<Operator, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(Operator::Exists),
            Token::Equal => {
                self.next();
                Ok(Operator::In(vec![self.value()?]))
            }
            Token::NotEqual => {
                self.next();
                Ok(Operator::NotIn(vec![self.value()?]))
            }
            Token::Word("in") => {
                self.next();
                Ok(Operator::In(self.values()?))
            }
            Token::Word("notin") => {
                self.next();
                Ok(Operator::NotIn(self.values()?))
            }
            Token::Greater => {
                self.next();
                Ok(Operator::Greater(self.number()?))
            }
            Token::Less => {
                self.next();
                Ok(Operator::Less(self.number()?))
            }
            other => Err(format!(
                "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                other.text()
            )),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let text = self.value()?;
        text.parse().map_err(|_| {
            format!("values[0][]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
        })
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.next() {
                Token::Comma => {}
                Token::Close => return Ok(values),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    !text.is_empty()
        && text.len() <= 63
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let prefix_fine = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix.split('.').all(|label| {
                is_name(label)
                    && label
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            })
    });
    if prefix_fine && is_name(name) {
        return Ok(());
    }
    Err(format!(
        "key: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    ))
}

fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_name(value) {
        return Ok(());
    }
    Err(format!(
        "values[0][]: Invalid value: {value:?}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        let labels_of = |key: &str| labels.get(key).and_then(Value::as_str);
        parse_labels(selector)
            .unwrap()
            .iter()
            .all(|requirement| requirement.matches(labels_of(&requirement.key)))
    }

    #[test]
    fn every_operator() {
        let web = || json!({"app": "web", "tier": "2"});
        for yes in [
            "",
            "app=web",
            "app == web",
            "app!=db",
            "gone!=x",
            "app in (db, web)",
            "app notin (db)",
            "gone notin (x)",
            "app",
            "!gone",
            "tier>1",
            "tier<3",
            "app=web,tier",
        ] {
            assert!(matches(yes, web()), "{yes}");
        }
        for no in [
            "app=db",
            "app!=web",
            "app in (db)",
            "app notin (web,x)",
            "gone",
            "!app",
            "tier>2",
            "app=web,gone",
            "app=",
        ] {
            assert!(!matches(no, web()), "{no}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "=", "a=b=c", "a in b", "a in (b", "a b", ",a", "a=-x", "/x", "a=b c", "!",
        ] {
            assert!(parse_labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_know_escapes_and_three_operators() {
        let terms = parse_fields("spec.nodeName==n1,status.phase!=Failed,x=a\\,b\\=c").unwrap();
        let seen: Vec<_> = terms
            .iter()
            .map(|t| (t.field.as_str(), t.equal, t.value.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("spec.nodeName", true, "n1"),
                ("status.phase", false, "Failed"),
                ("x", true, "a,b=c")
            ]
        );
        assert!(parse_fields("what").is_err());
        assert!(parse_fields("a=\\x").is_err());
        assert_eq!(parse_fields("").unwrap(), []);
    }
}
