//! Executes a template on an event: Go's text/template/exec.

use std::borrow::Cow;

use super::functions::{Function, Parameter};
use super::parse::{Command, List, Node, Operand, Pipe, Span, Term, Tree};
use super::print::print;
use super::value::{Value, attribute};

/// How much may be done for one event, in parts of the template and KiB of what they make: a `range` over a huge number
/// ends here.
const STEPS: usize = 200_000;

/// How deep templates may call each other, and parts stand in each other.
const DEPTH: usize = 100;

/// What went wrong, and with which part of the template.
#[derive(Debug)]
pub(super) struct ExecError {
    pub(super) span: Span,
    pub(super) what: String,
}

/// Executes a template; what it printed before it failed stands in `out`.
pub(super) fn execute<'e>(text: &'e str, tree: &'e Tree, dot: Value<'e>, out: &mut Vec<u8>) -> Result<(), ExecError> {
    let variables = vec![("$", dot.clone())];
    let at = Span { at: 0, from: 0, to: 0 };
    let mut execution = Execution { text, tree, variables, out, steps: STEPS, depth: 0, at };
    let done = execution.walk(&dot, &tree.list);
    done.map(drop).map_err(|what| ExecError { span: execution.at, what })
}

struct Execution<'e, 'o> {
    text: &'e str,
    tree: &'e Tree,
    variables: Vec<(&'e str, Value<'e>)>,
    out: &'o mut Vec<u8>,
    steps: usize,
    depth: usize,
    /// What is executed.
    at: Span,
}

type Done<T> = Result<T, String>;

/// What a `range` goes over: keys and values.
type Items<'e> = Box<dyn Iterator<Item = (Value<'e>, Value<'e>)> + 'e>;

/// What goes on after a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Next,
    Break,
    Continue,
}

impl<'e> Execution<'e, '_> {
    /// Goes a level deeper for as long as `inside` takes.
    fn deeper<T>(&mut self, inside: impl FnOnce(&mut Self) -> Done<T>) -> Done<T> {
        if self.depth == DEPTH {
            return Err(format!("exceeded maximum template depth ({DEPTH})"));
        }
        self.depth += 1;
        let done = inside(self);
        self.depth -= 1;
        done
    }

    /// Forgets the variables that `inside` declares.
    fn scope<T>(&mut self, inside: impl FnOnce(&mut Self) -> Done<T>) -> Done<T> {
        let known = self.variables.len();
        let done = inside(self);
        self.variables.truncate(known);
        done
    }

    /// A step, and so many bytes.
    fn step(&mut self, bytes: usize) -> Done<()> {
        let left = self.steps.checked_sub(1 + bytes / 1024);
        self.steps = left.ok_or_else(|| format!("it takes more than {STEPS} steps"))?;
        Ok(())
    }

    fn source(&self, span: Span) -> &'e str {
        &self.text[span.from..span.to]
    }

    fn walk(&mut self, dot: &Value<'e>, list: &'e List) -> Done<Then> {
        for node in list {
            self.step(0)?;
            let then = self.deeper(|all| all.node(dot, node))?;
            if then != Then::Next {
                return Ok(then);
            }
        }
        Ok(Then::Next)
    }

    fn node(&mut self, dot: &Value<'e>, node: &'e Node) -> Done<Then> {
        match node {
            Node::Text(text) => self.out.extend_from_slice(text.as_bytes()),
            // What it declares is known to what follows it.
            Node::Action(pipe) => match self.pipe(dot, pipe)? {
                _ if !pipe.variables.is_empty() => {}
                Value::None => self.out.extend_from_slice(b"<no value>"),
                value => {
                    let before = self.out.len();
                    print(&value, self.out);
                    self.step(self.out.len() - before)?;
                }
            },
            Node::If(branch) => {
                return self.scope(|all| {
                    let is_true = all.pipe(dot, &branch.pipe)?.is_true();
                    all.walk(dot, if is_true { &branch.list } else { &branch.otherwise })
                });
            }
            Node::With(branch) => {
                return self.scope(|all| {
                    let value = all.pipe(dot, &branch.pipe)?;
                    if value.is_true() { all.walk(&value, &branch.list) } else { all.walk(dot, &branch.otherwise) }
                });
            }
            Node::Range(branch) => {
                return self.scope(|all| {
                    let value = all.pipe(dot, &branch.pipe)?;
                    let mut items = items(value, branch.pipe.variables.len())?.peekable();
                    if items.peek().is_none() {
                        return all.walk(dot, &branch.otherwise);
                    }
                    for (key, value) in items {
                        if all.scope(|all| all.once(&branch.pipe, key, value, &branch.list))? == Then::Break {
                            break;
                        }
                    }
                    Ok(Then::Next)
                });
            }
            Node::Call(span, name, pipe) => self.call(dot, *span, name, pipe.as_ref())?,
            Node::Break => return Ok(Then::Break),
            Node::Continue => return Ok(Then::Continue),
        }
        Ok(Then::Next)
    }

    fn once(&mut self, pipe: &'e Pipe, key: Value<'e>, value: Value<'e>, list: &'e List) -> Done<Then> {
        self.step(0)?;
        match &pipe.variables[..] {
            [] => {}
            [one] => self.set(pipe, one, value.clone()),
            [one, other, ..] => {
                self.set(pipe, one, key);
                self.set(pipe, other, value.clone());
            }
        }
        self.walk(&value, list)
    }

    fn set(&mut self, pipe: &Pipe, name: &'e str, value: Value<'e>) {
        let known = self.variables.iter_mut().rev().find(|(known, _)| pipe.assigns && *known == name);
        match known {
            Some((_, known)) => *known = value,
            None => self.variables.push((name, value)),
        }
    }

    fn call(&mut self, dot: &Value<'e>, span: Span, name: &str, pipe: Option<&'e Pipe>) -> Done<()> {
        self.at = span;
        // Of two of a name the later one counts.
        let Some((_, list)) = self.tree.defined.iter().rev().find(|(defined, _)| defined == name) else {
            return Err(format!("template {name:?} not defined"));
        };
        let dot = pipe.map_or(Ok(Value::None), |pipe| self.pipe(dot, pipe))?;
        let around = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.walk(&dot, list)?;
        self.variables = around;
        Ok(())
    }

    fn pipe(&mut self, dot: &Value<'e>, pipe: &'e Pipe) -> Done<Value<'e>> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(dot, command, last)?);
        }
        let value = last.unwrap_or(Value::None);
        // The two of a range are set for each of its items.
        if let [name] = &pipe.variables[..] {
            self.set(pipe, name, value.clone());
        }
        Ok(value)
    }

    fn command(&mut self, dot: &Value<'e>, command: &'e Command, last: Option<Value<'e>>) -> Done<Value<'e>> {
        self.step(0)?;
        let (first, more) = command.args.split_first().expect("a command has words");
        if let Term::Function(function) = &first.term {
            let value = self.function(dot, function, command.span, first, more, last)?;
            return self.fields(value, &first.fields);
        }
        self.at = first.span;
        let is_given = last.is_some() || !more.is_empty();
        match first.fields.last() {
            None if is_given => Err(format!("can't give argument to non-function {}", self.source(first.span))),
            Some(field) if is_given => {
                self.operand(dot, first)?;
                Err(format!("{field} has arguments but cannot be invoked as function"))
            }
            None if matches!(first.term, Term::Nil) => Err("nil is not a command".into()),
            _ => self.operand(dot, first),
        }
    }

    fn operand(&mut self, dot: &Value<'e>, operand: &'e Operand) -> Done<Value<'e>> {
        let value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Nil => Value::None,
            Term::Bool(truth) => Value::Bool(*truth),
            Term::Str(text) => Value::Str(Cow::Borrowed(text)),
            Term::Number(number) => match (number.float, number.int) {
                (Some(float), _) => Value::Float(float),
                (None, int) => Value::Int(int.unwrap_or_default()),
            },
            Term::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map_or(Value::None, |(_, value)| value.clone())
            }
            Term::Function(function) => self.function(dot, function, operand.span, operand, &[], None)?,
            Term::Pipe(pipe) => self.deeper(|all| all.pipe(dot, pipe))?,
        };
        self.at = operand.span;
        self.step(value.weight())?;
        self.fields(value, &operand.fields)
    }

    fn fields(&self, value: Value<'e>, fields: &[String]) -> Done<Value<'e>> {
        fields.iter().try_fold(value, |value, name| {
            let found = match &value {
                Value::None => Some(Value::None),
                Value::Message(message) => message.field(name),
                Value::Actor(message) => message.actor_field(name),
                Value::Attributes(pairs) => Some(attribute(*pairs, name.as_bytes()).unwrap_or(Value::None)),
                _ => None,
            };
            found.ok_or_else(|| format!("can't evaluate field {name} in type {}", value.type_name()))
        })
    }

    fn function(
        &mut self,
        dot: &Value<'e>,
        function: &'static Function,
        span: Span,
        name: &'e Operand,
        args: &'e [Operand],
        last: Option<Value<'e>>,
    ) -> Done<Value<'e>> {
        let count = args.len() + usize::from(last.is_some());
        self.at = name.span;
        function.takes(count)?;
        let mut values = Vec::with_capacity(count);
        for (at, arg) in args.iter().enumerate() {
            let value = self.argument(dot, arg, function.parameter(at))?;
            if function.is_decided_by(&value) {
                return Ok(value);
            }
            values.push(value);
        }
        self.at = span;
        if let Some(last) = last {
            function.parameter(args.len()).check(&last)?;
            values.push(last);
        }
        let value = function.call(&values).map_err(|what| format!("error calling {}: {what}", function.name))?;
        self.step(value.weight())?;
        Ok(value)
    }

    /// An argument: constants must be written in the type that is wanted.
    fn argument(&mut self, dot: &Value<'e>, arg: &'e Operand, wanted: Parameter) -> Done<Value<'e>> {
        self.at = arg.span;
        let source = self.source(arg.span);
        let constant = if arg.is_constant() { Some(&arg.term) } else { None };
        match (constant, wanted) {
            (Some(Term::Number(number)), Parameter::Int) if number.int.is_some() => {
                return Ok(Value::Int(number.int.unwrap_or_default()));
            }
            (Some(Term::Nil), Parameter::Str | Parameter::Int) => {
                return Err(format!("cannot assign nil to {}", wanted.type_name()));
            }
            (Some(Term::Bool(_) | Term::Number(_)), Parameter::Str) => {
                return Err(format!("expected string; found {source}"));
            }
            (Some(Term::Bool(_) | Term::Number(_) | Term::Str(_)), Parameter::Int) => {
                return Err(format!("expected integer; found {source}"));
            }
            (Some(Term::Bool(_) | Term::Number(_) | Term::Str(_)), Parameter::List) => {
                return Err(format!("can't handle {source} for arg of type []string"));
            }
            _ => {}
        }
        let value = self.operand(dot, arg)?;
        wanted.check(&value)?;
        Ok(value)
    }
}

fn items(value: Value<'_>, variables: usize) -> Done<Items<'_>> {
    Ok(match value {
        Value::None | Value::Attributes(None) => Box::new(std::iter::empty()),
        Value::Attributes(Some(pairs)) => {
            let text = |text| Value::text(Cow::Borrowed(text));
            Box::new(pairs.iter().map(move |(key, value)| (text(&**key), text(&**value))))
        }
        Value::List(list) => Box::new((0..).zip(list).map(|(at, text)| (Value::Int(at), Value::owned(text)))),
        Value::Int(_) | Value::Int64(_) | Value::Byte(_) => {
            let number = value.int().unwrap_or_default();
            if variables > 1 {
                return Err(format!("can't use {number} to iterate over more than one variable"));
            }
            Box::new((0..number).map(|at| (Value::Int(at), Value::Int(at))))
        }
        value => {
            let mut shown = Vec::new();
            print(&value, &mut shown);
            return Err(format!("range can't iterate over {}", String::from_utf8_lossy(&shown)));
        }
    })
}
