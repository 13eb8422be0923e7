//! The functions of templates: those of Go's text/template, and those that the docker client adds.

use std::borrow::Cow;

use super::json;
use super::print::{MAX_OUTPUT_LEN, println, sprint, sprintf};
use super::value::{Value, attribute, characters};

/// Maximum number of spaces that `pad` adds on one side.
const MAX_PADDING: usize = 1_000_000;

/// Type of a parameter.
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
    /// Type of the variadic arguments after the parameters, if the function accepts any.
    variadic: Option<Parameter>,
    body: Body,
}

type Body = for<'e> fn(&[Value<'e>]) -> Result<Value<'e>, String>;

use Parameter::{Any, Int, List, Str};

const fn fixed(name: &'static str, parameters: &'static [Parameter], body: Body) -> Function {
    Function { name, parameters, variadic: None, body }
}

const fn variadic(name: &'static str, parameters: &'static [Parameter], body: Body) -> Function {
    Function { name, parameters, variadic: Some(Any), body }
}

static FUNCTIONS: [Function; 27] = [
    variadic("and", &[Any], |args| Ok(last(args))),
    variadic("call", &[Any], call),
    variadic("eq", &[Any], eq),
    fixed("ge", &[Any, Any], |args| Ok(Value::Bool(!is_less(args)?))),
    fixed("gt", &[Any, Any], |args| Ok(Value::Bool(!(is_less(args)? || args[0].is_equal(&args[1])?)))),
    variadic("html", &[], |args| Ok(Value::owned_text(html(&args_to_text(args)?)))),
    variadic("index", &[Any], index),
    variadic("js", &[], |args| Ok(Value::owned_text(js(&args_to_text(args)?)))),
    fixed("join", &[List, Str], join),
    fixed("json", &[Any], |args| Ok(Value::owned_text(json::encode(&args[0])))),
    fixed("le", &[Any, Any], |args| Ok(Value::Bool(is_less(args)? || args[0].is_equal(&args[1])?))),
    fixed("len", &[Any], len),
    fixed("lower", &[Str], |args| Ok(map_chars(&args[0], lower))),
    fixed("lt", &[Any, Any], |args| Ok(Value::Bool(is_less(args)?))),
    fixed("ne", &[Any, Any], |args| Ok(Value::Bool(!args[0].is_equal(&args[1])?))),
    fixed("not", &[Any], |args| Ok(Value::Bool(!args[0].is_true()))),
    variadic("or", &[Any], |args| Ok(last(args))),
    fixed("pad", &[Str, Int, Int], pad),
    variadic("print", &[], |args| Ok(Value::owned_text(sprint(args)?))),
    variadic("printf", &[Str], |args| Ok(Value::owned_text(sprintf(bytes(&args[0]), &args[1..])?))),
    variadic("println", &[], |args| Ok(Value::owned_text(println(args)?))),
    variadic("slice", &[Any], slice),
    fixed("split", &[Str, Str], split),
    fixed("title", &[Str], title),
    fixed("truncate", &[Str, Int], truncate),
    fixed("upper", &[Str], |args| Ok(map_chars(&args[0], upper))),
    variadic("urlquery", &[], |args| Ok(Value::owned_text(urlquery(&args_to_text(args)?)))),
];

impl Function {
    pub(super) fn find(name: &str) -> Option<&'static Function> {
        FUNCTIONS.iter().find(|function| function.name == name)
    }

    pub(super) fn parameter(&self, index: usize) -> Parameter {
        self.parameters.get(index).copied().or(self.variadic).unwrap_or(Any)
    }

    /// Checks the number of arguments.
    pub(super) fn check_arity(&self, count: usize) -> Result<(), String> {
        let required = self.parameters.len();
        let name = self.name;
        match self.variadic {
            None if count != required => Err(format!("wrong number of args for {name}: want {required} got {count}")),
            Some(_) if count < required => {
                Err(format!("wrong number of args for {name}: want at least {required} got {count}"))
            }
            _ => Ok(()),
        }
    }

    /// Returns true if `and` or `or` is decided by this argument, so the others are not evaluated.
    pub(super) fn short_circuits_on(&self, value: &Value<'_>) -> bool {
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

    /// Checks the type of an argument.
    pub(super) fn check(self, value: &Value<'_>) -> Result<(), String> {
        let is_accepted = match (self, value) {
            (Any, _) | (List, Value::None | Value::List(_)) | (Str, Value::Str(_)) => true,
            (Int, value) => value.as_int().is_some(),
            _ => false,
        };
        match value {
            _ if is_accepted => Ok(()),
            Value::None => Err(format!("invalid value; expected {}", self.type_name())),
            value => Err(format!("wrong type for value; expected {}; got {}", self.type_name(), value.type_name())),
        }
    }
}

fn last<'e>(args: &[Value<'e>]) -> Value<'e> {
    args.last().cloned().unwrap_or(Value::None)
}

/// Returns the bytes of an argument that was already checked to be text.
fn bytes<'v>(value: &'v Value<'_>) -> &'v [u8] {
    if let Value::Str(text) = value { text } else { b"" }
}

fn call<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    Err(match &args[0] {
        Value::None => "call of nil".into(),
        value => format!("non-function of type {}", value.type_name()),
    })
}

/// Returns true if the first argument equals any of the others.
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

fn is_less(args: &[Value<'_>]) -> Result<bool, String> {
    if let Value::Bool(_) = args[0] {
        return Err("invalid type for comparison".into());
    }
    Ok(args[0].compare(&args[1])?.is_some_and(std::cmp::Ordering::is_lt))
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
            Value::List(list) => Value::Str(Cow::Owned(list[element_index(key, list.len(), "slice")?].clone())),
            Value::Str(text) => Value::Byte(text[element_index(key, text.len(), "string")?]),
            item => return Err(format!("can't index item of type {}", item.type_name())),
        };
    }
    Ok(item)
}

/// Converts an argument to an index into something of length `len`.
fn element_index(key: &Value<'_>, len: usize, type_name: &str) -> Result<usize, String> {
    let index = index_arg(key, len)?;
    // Go's own check accepts an index equal to the length.
    if index == len { Err(format!("reflect: {type_name} index out of range")) } else { Ok(index) }
}

/// Converts an argument to an index that may equal the length.
fn index_arg(key: &Value<'_>, len: usize) -> Result<usize, String> {
    let index = match key {
        Value::None => return Err("cannot index slice/array with nil".into()),
        key => key.as_int().ok_or_else(|| format!("cannot index slice/array with type {}", key.type_name()))?,
    };
    usize::try_from(index).ok().filter(|at| *at <= len).ok_or_else(|| format!("index out of range: {index}"))
}

fn slice<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let (item, bounds) = args.split_first().expect("slice has at least one argument");
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
    let mut indexes = [0, len, len];
    for (index, argument) in indexes.iter_mut().zip(bounds) {
        *index = index_arg(argument, len)?;
    }
    for (from, to) in [(indexes[0], indexes[1]), (indexes[1], indexes[2])] {
        if from > to {
            return Err(format!("invalid slice index: {from} > {to}"));
        }
    }
    Ok(match item {
        Value::List(list) => Value::List(list[indexes[0]..indexes[1]].to_vec()),
        item => Value::owned_text(&bytes(item)[indexes[0]..indexes[1]]),
    })
}

fn split<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let (text, separator) = (bytes(&args[0]), bytes(&args[1]));
    if separator.is_empty() {
        return Ok(Value::List(characters(text).map(|(bytes, _)| bytes.to_vec()).collect()));
    }
    let mut parts = Vec::new();
    let mut from = 0;
    for index in memchr::memmem::find_iter(text, separator) {
        parts.push(text[from..index].to_vec());
        from = index + separator.len();
    }
    parts.push(text[from..].to_vec());
    Ok(Value::List(parts))
}

fn join<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let Value::List(list) = &args[0] else { return Ok(Value::owned_text("")) };
    let joined_len = list.iter().map(Vec::len).sum::<usize>() + bytes(&args[1]).len() * list.len();
    if joined_len > MAX_OUTPUT_LEN {
        return Err(format!("the result exceeds {MAX_OUTPUT_LEN} bytes"));
    }
    Ok(Value::owned_text(list.join(bytes(&args[1]))))
}

/// Adds spaces before and after a text, unless it is empty.
fn pad<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let text = bytes(&args[0]);
    if text.is_empty() {
        return Ok(args[0].clone());
    }
    let spaces = |count: &Value<'_>| {
        let count = usize::try_from(count.as_int().unwrap_or_default());
        let count = count.map_err(|_| "strings: negative Repeat count")?;
        if count > MAX_PADDING { Err("strings: Repeat output length overflow") } else { Ok(vec![b' '; count]) }
    };
    Ok(Value::owned_text([&spaces(&args[1])?, text, &spaces(&args[2])?].concat()))
}

fn truncate<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let (text, length) = (bytes(&args[0]), args[1].as_int().unwrap_or_default());
    if (text.len() as i64) < length {
        return Ok(args[0].clone());
    }
    let length =
        usize::try_from(length).map_err(|_| format!("runtime error: slice bounds out of range [:{length}]"))?;
    Ok(Value::owned_text(&text[..length]))
}

/// Converts a character to upper case, unless its upper case is more than one character.
fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    if upper.len() == 1 { upper.next().unwrap_or(c) } else { c }
}

fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

fn map_chars<'e>(value: &Value<'e>, map: fn(char) -> char) -> Value<'e> {
    Value::owned_text(characters(bytes(value)).map(|(_, c)| map(c)).collect::<String>())
}

/// Converts the first letter of each word to upper case.
fn title<'e>(args: &[Value<'e>]) -> Result<Value<'e>, String> {
    let is_separator = |c: char| match c {
        '_' => false,
        c if c.is_ascii() => !c.is_ascii_alphanumeric(),
        c => !c.is_alphanumeric() && c.is_whitespace(),
    };
    let mut previous = ' ';
    let chars = characters(bytes(&args[0])).map(|(_, c)| {
        let c_or_upper = if is_separator(previous) { upper(c) } else { c };
        previous = c;
        c_or_upper
    });
    Ok(Value::owned_text(chars.collect::<String>()))
}

/// Joins the arguments to one text.
fn args_to_text<'v>(args: &'v [Value<'_>]) -> Result<Cow<'v, [u8]>, String> {
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
