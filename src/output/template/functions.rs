//! The functions that a template may call: those of Go's text/template, and those that the docker client adds.

use std::borrow::Cow;

use super::json;
use super::print::{LONGEST, println, sprint, sprintf};
use super::value::{Value, attribute, characters};

/// How many spaces `pad` makes at most.
const WIDEST: usize = 1_000_000;

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Any,
    Str,
    Int,
    List,
}

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    parameters: &'static [Parameter],
    /// What comes behind the parameters, any number of times.
    more: Option<Parameter>,
    body: Body,
}

type Body = for<'e> fn(&[Value<'e>]) -> Result<Value<'e>, String>;

use Parameter::{Any, Int, List, Str};

const fn fixed(name: &'static str, parameters: &'static [Parameter], body: Body) -> Function {
    Function { name, parameters, more: None, body }
}

const fn variadic(name: &'static str, parameters: &'static [Parameter], body: Body) -> Function {
    Function { name, parameters, more: Some(Any), body }
}

static FUNCTIONS: [Function; 27] = [
    variadic("and", &[Any], |args| Ok(last(args))),
    variadic("call", &[Any], call),
    variadic("eq", &[Any], eq),
    fixed("ge", &[Any, Any], |args| Ok(Value::Bool(!less(args)?))),
    fixed("gt", &[Any, Any], |args| Ok(Value::Bool(!(less(args)? || args[0].is_equal(&args[1])?)))),
    variadic("html", &[], |args| Ok(Value::owned(html(&as_text(args)?)))),
    variadic("index", &[Any], index),
    variadic("js", &[], |args| Ok(Value::owned(js(&as_text(args)?)))),
    fixed("join", &[List, Str], join),
    fixed("json", &[Any], |args| Ok(Value::owned(json::of(&args[0])))),
    fixed("le", &[Any, Any], |args| Ok(Value::Bool(less(args)? || args[0].is_equal(&args[1])?))),
    fixed("len", &[Any], len),
    fixed("lower", &[Str], |args| Ok(mapped(&args[0], lower))),
    fixed("lt", &[Any, Any], |args| Ok(Value::Bool(less(args)?))),
    fixed("ne", &[Any, Any], |args| Ok(Value::Bool(!args[0].is_equal(&args[1])?))),
    fixed("not", &[Any], |args| Ok(Value::Bool(!args[0].is_true()))),
    variadic("or", &[Any], |args| Ok(last(args))),
    fixed("pad", &[Str, Int, Int], pad),
    variadic("print", &[], |args| Ok(Value::owned(sprint(args)?))),
    variadic("printf", &[Str], |args| Ok(Value::owned(sprintf(bytes(&args[0]), &args[1..])?))),
    variadic("println", &[], |args| Ok(Value::owned(println(args)?))),
    variadic("slice", &[Any], slice),
    fixed("split", &[Str, Str], split),
    fixed("title", &[Str], title),
    fixed("truncate", &[Str, Int], truncate),
    fixed("upper", &[Str], |args| Ok(mapped(&args[0], upper))),
    variadic("urlquery", &[], |args| Ok(Value::owned(urlquery(&as_text(args)?)))),
];

impl Function {
    pub(super) fn named(name: &str) -> Option<&'static Function> {
        FUNCTIONS.iter().find(|function| function.name == name)
    }

    pub(super) fn parameter(&self, at: usize) -> Parameter {
        self.parameters.get(at).copied().or(self.more).unwrap_or(Any)
    }

    /// Whether it can be given so many arguments.
    pub(super) fn takes(&self, count: usize) -> Result<(), String> {
        let least = self.parameters.len();
        let name = self.name;
        match self.more {
            None if count != least => Err(format!("wrong number of args for {name}: want {least} got {count}")),
            Some(_) if count < least => {
                Err(format!("wrong number of args for {name}: want at least {least} got {count}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether what is given already is the answer, whatever follows.
    pub(super) fn is_decided_by(&self, value: &Value<'_>) -> bool {
        (self.name == "and" && !value.is_true()) || (self.name == "or" && value.is_true())
    }

    pub(super) fn call<'e>(&self, args: &[Value<'e>]) -> Result<Value<'e>, String> {
        (self.body)(args)
    }
}

impl Parameter {
    pub(super) fn type_name(self) -> &'static str {
        match self {
            Any => "interface {}",
            Str => "string",
            Int => "int",
            List => "[]string",
        }
    }

    /// Whether it takes a value.
    pub(super) fn check(self, value: &Value<'_>) -> Result<(), String> {
        let takes = match (self, value) {
            (Any, _) | (List, Value::None | Value::List(_)) | (Str, Value::Str(_)) => true,
            (Int, value) => value.int().is_some(),
            _ => false,
        };
        match value {
            _ if takes => Ok(()),
            Value::None => Err(format!("invalid value; expected {}", self.type_name())),
            value => Err(format!("wrong type for value; expected {}; got {}", self.type_name(), value.type_name())),
        }
    }
}

fn last<'e>(args: &[Value<'e>]) -> Value<'e> {
    args.last().cloned().unwrap_or(Value::None)
}

/// The bytes of an argument that was checked to be a text.
fn bytes<'v>(value: &'v Value<'_>) -> &'v [u8] {
    if let Value::Str(text) = value { text } else { b"" }
}

fn call<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    Err(match &args[0] {
        Value::None => "call of nil".into(),
        value => format!("non-function of type {}", value.type_name()),
    })
}

/// Whether the first is any of the others.
fn eq<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let (first, others) = args.split_first().ok_or("missing argument for comparison")?;
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        if first.is_equal(other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn less(args: &[Value<'_>]) -> Result<bool, String> {
    if let Value::Bool(_) = args[0] {
        return Err("invalid type for comparison".into());
    }
    Ok(args[0].order(&args[1])?.is_some_and(std::cmp::Ordering::is_lt))
}

fn len<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let len = match &args[0] {
        Value::Str(text) => text.len(),
        Value::List(list) => list.len(),
        Value::Attributes(pairs) => pairs.map_or(0, |pairs| pairs.len()),
        Value::None => return Err("len of nil pointer".into()),
        value => return Err(format!("len of type {}", value.type_name())),
    };
    Ok(Value::Int(len as i64))
}

fn index<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let mut item = args[0].clone();
    if let Value::None = item {
        return Err("index of untyped nil".into());
    }
    for key in &args[1..] {
        item = match &item {
            Value::Attributes(pairs) => match key {
                Value::Str(name) => attribute(*pairs, name).unwrap_or(Value::Str(Cow::Borrowed(b""))),
                Value::None => return Err("value is nil; should be of type string".into()),
                key => return Err(format!("value has type {}; should be string", key.type_name())),
            },
            Value::List(list) => Value::Str(Cow::Owned(list[place(key, list.len(), "slice")?].clone())),
            Value::Str(text) => Value::Byte(text[place(key, text.len(), "string")?]),
            item => return Err(format!("can't index item of type {}", item.type_name())),
        };
    }
    Ok(item)
}

/// A place in something of a length, from an argument.
fn place(key: &Value<'_>, len: usize, of: &str) -> Result<usize, String> {
    let at = bound(key, len)?;
    // Go's own check lets the end pass.
    if at == len { Err(format!("reflect: {of} index out of range")) } else { Ok(at) }
}

/// A place that may be the end.
fn bound(key: &Value<'_>, len: usize) -> Result<usize, String> {
    let at = match key {
        Value::None => return Err("cannot index slice/array with nil".into()),
        key => key.int().ok_or_else(|| format!("cannot index slice/array with type {}", key.type_name()))?,
    };
    usize::try_from(at).ok().filter(|at| *at <= len).ok_or_else(|| format!("index out of range: {at}"))
}

fn slice<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let (item, bounds) = args.split_first().expect("it has a parameter");
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let len = match item {
        Value::Str(_) if bounds.len() == 3 => return Err("cannot 3-index slice a string".into()),
        Value::Str(text) => text.len(),
        Value::List(list) => list.len(),
        Value::None => return Err("slice of untyped nil".into()),
        item => return Err(format!("can't slice item of type {}", item.type_name())),
    };
    let mut at = [0, len, len];
    for (at, given) in at.iter_mut().zip(bounds) {
        *at = bound(given, len)?;
    }
    for (from, to) in [(at[0], at[1]), (at[1], at[2])] {
        if from > to {
            return Err(format!("invalid slice index: {from} > {to}"));
        }
    }
    Ok(match item {
        Value::List(list) => Value::List(list[at[0]..at[1]].to_vec()),
        item => Value::owned(&bytes(item)[at[0]..at[1]]),
    })
}

fn split<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let (text, by) = (bytes(&args[0]), bytes(&args[1]));
    if by.is_empty() {
        return Ok(Value::List(characters(text).map(|(bytes, _)| bytes.to_vec()).collect()));
    }
    let mut parts = Vec::new();
    let mut from = 0;
    for at in memchr::memmem::find_iter(text, by) {
        parts.push(text[from..at].to_vec());
        from = at + by.len();
    }
    parts.push(text[from..].to_vec());
    Ok(Value::List(parts))
}

fn join<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let Value::List(list) = &args[0] else { return Ok(Value::owned("")) };
    let joined = list.iter().map(Vec::len).sum::<usize>() + bytes(&args[1]).len() * list.len();
    if joined > LONGEST {
        return Err(format!("it makes more than {LONGEST} bytes"));
    }
    Ok(Value::owned(list.join(bytes(&args[1]))))
}

/// Spaces before and after what is not empty.
fn pad<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let text = bytes(&args[0]);
    if text.is_empty() {
        return Ok(args[0].clone());
    }
    let spaces = |count: &Value<'_>| {
        let count = usize::try_from(count.int().unwrap_or_default());
        let count = count.map_err(|_| "strings: negative Repeat count")?;
        if count > WIDEST { Err("strings: Repeat output length overflow") } else { Ok(vec![b' '; count]) }
    };
    Ok(Value::owned([&spaces(&args[1])?, text, &spaces(&args[2])?].concat()))
}

fn truncate<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let (text, length) = (bytes(&args[0]), args[1].int().unwrap_or_default());
    if (text.len() as i64) < length {
        return Ok(args[0].clone());
    }
    let length =
        usize::try_from(length).map_err(|_| format!("runtime error: slice bounds out of range [:{length}]"))?;
    Ok(Value::owned(&text[..length]))
}

/// Each character in the place of which stands one other. Where Unicode has several, or none, it stays.
fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    if upper.len() == 1 { upper.next().unwrap_or(c) } else { c }
}

fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

fn mapped<'e>(value: &Value<'e>, map: fn(char) -> char) -> Value<'e> {
    Value::owned(characters(bytes(value)).map(|(_, c)| map(c)).collect::<String>())
}

/// The first letter of each word in upper case.
fn title<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let separates = |c: char| match c {
        '_' => false,
        c if c.is_ascii() => !c.is_ascii_alphanumeric(),
        c => !c.is_alphanumeric() && c.is_whitespace(),
    };
    let mut before = ' ';
    let titled = characters(bytes(&args[0])).map(|(_, c)| {
        let c_or_upper = if separates(before) { upper(c) } else { c };
        before = c;
        c_or_upper
    });
    Ok(Value::owned(titled.collect::<String>()))
}

/// The arguments as one text.
fn as_text<'v>(args: &'v [Value<'_>]) -> Result<Cow<'v, [u8]>, String> {
    if let [Value::Str(text)] = args { Ok(Cow::Borrowed(text)) } else { sprint(args).map(Cow::Owned) }
}

fn html(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            0 => out.extend_from_slice("\u{FFFD}".as_bytes()),
            b'"' => out.extend_from_slice(b"&#34;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            byte => out.push(*byte),
        }
    }
    out
}

fn js(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for (bytes, c) in characters(text) {
        match c {
            '\\' | '\'' | '"' => out.extend_from_slice(format!("\\{c}").as_bytes()),
            '<' | '>' | '&' | '=' | '\0'..' ' => out.extend_from_slice(format!("\\u{:04X}", c as u32).as_bytes()),
            c if c.is_ascii() || super::print::is_printable(c) => out.extend_from_slice(bytes),
            c => out.extend_from_slice(format!("\\u{:04X}", c as u32).as_bytes()),
        }
    }
    out
}

fn urlquery(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(*byte),
            b' ' => out.push(b'+'),
            byte => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out
}
