//! Executes a template on an event, as Go's text/template/exec does.

use std::borrow::Cow;

use super::functions::{Function, Parameter};
use super::parse::{Command, List, Node, Operand, Pipe, Span, Term, Tree};
use super::print::print_value;
use super::value::{Value, attribute};

/// Maximum work for one event, in executed nodes and commands plus KiB of their results. It stops a `range` over a huge
/// number.
const MAX_STEPS: usize = 200_000;

/// Maximum depth of nested nodes and template calls.
const MAX_DEPTH: usize = 100;

/// An error and the part of the template that caused it.
#[derive(Debug)]
pub(super) struct ExecError {
    pub(super) span: Span,
    pub(super) message: String,
}

/// Executes a template. After an error, `out` contains the output up to it.
pub(super) fn execute<'e>(text: &'e str, tree: &'e Tree, dot: Value<'e>, out: &mut Vec<u8>) -> Result<(), ExecError> {
    let variables = vec![("$", dot.clone())];
    let span = Span { offset: 0, from: 0, to: 0 };
    let mut execution = Execution { text, tree, variables, out, steps_left: MAX_STEPS, depth: 0, span };
    let result = execution.walk(&dot, &tree.list);
    result.map(drop).map_err(|message| ExecError { span: execution.span, message })
}

struct Execution<'e, 'o> {
    text: &'e str,
    tree: &'e Tree,
    variables: Vec<(&'e str, Value<'e>)>,
    out: &'o mut Vec<u8>,
    steps_left: usize,
    depth: usize,
    /// The part that is being executed.
    span: Span,
}

type ExecResult<T> = Result<T, String>;

/// Keys and values of a `range`.
type Items<'e> = Box<dyn Iterator<Item = (Value<'e>, Value<'e>)> + 'e>;

/// Control flow after a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'e> Execution<'e, '_> {
    /// Runs `body` one level deeper.
    fn descend<T>(&mut self, body: impl FnOnce(&mut Self) -> ExecResult<T>) -> ExecResult<T> {
        if self.depth == MAX_DEPTH {
            return Err(format!("exceeded maximum template depth ({MAX_DEPTH})"));
        }
        self.depth += 1;
        let result = body(self);
        self.depth -= 1;
        result
    }

    /// Runs `body` and removes the variables that it declares.
    fn with_scope<T>(&mut self, body: impl FnOnce(&mut Self) -> ExecResult<T>) -> ExecResult<T> {
        let variable_count = self.variables.len();
        let result = body(self);
        self.variables.truncate(variable_count);
        result
    }

    /// Counts one step, plus the KiB of its result.
    fn step(&mut self, bytes: usize) -> ExecResult<()> {
        let remaining = self.steps_left.checked_sub(1 + bytes / 1024);
        self.steps_left = remaining.ok_or_else(|| format!("execution exceeds {MAX_STEPS} steps"))?;
        Ok(())
    }

    fn source(&self, span: Span) -> &'e str {
        &self.text[span.from..span.to]
    }

    fn walk(&mut self, dot: &Value<'e>, list: &'e List) -> ExecResult<Flow> {
        for node in list {
            self.step(0)?;
            let flow = self.descend(|execution| execution.walk_node(dot, node))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn walk_node(&mut self, dot: &Value<'e>, node: &'e Node) -> ExecResult<Flow> {
        match node {
            Node::Text(text) => self.out.extend_from_slice(text.as_bytes()),
            // A variable that it declares stays in scope for the nodes that follow.
            Node::Action(pipe) => match self.eval_pipe(dot, pipe)? {
                _ if !pipe.variables.is_empty() => {}
                Value::None => self.out.extend_from_slice(b"<no value>"),
                value => {
                    let before = self.out.len();
                    print_value(&value, self.out);
                    self.step(self.out.len() - before)?;
                }
            },
            Node::If(branch) => {
                return self.with_scope(|execution| {
                    let is_true = execution.eval_pipe(dot, &branch.pipe)?.is_true();
                    execution.walk(dot, if is_true { &branch.list } else { &branch.else_list })
                });
            }
            Node::With(branch) => {
                return self.with_scope(|execution| {
                    let value = execution.eval_pipe(dot, &branch.pipe)?;
                    if value.is_true() {
                        execution.walk(&value, &branch.list)
                    } else {
                        execution.walk(dot, &branch.else_list)
                    }
                });
            }
            Node::Range(branch) => {
                return self.with_scope(|execution| {
                    let value = execution.eval_pipe(dot, &branch.pipe)?;
                    let mut items = range_items(value, branch.pipe.variables.len())?.peekable();
                    if items.peek().is_none() {
                        return execution.walk(dot, &branch.else_list);
                    }
                    for (key, value) in items {
                        if execution
                            .with_scope(|execution| execution.walk_range_item(&branch.pipe, key, value, &branch.list))?
                            == Flow::Break
                        {
                            break;
                        }
                    }
                    Ok(Flow::Next)
                });
            }
            Node::Call(span, name, pipe) => self.walk_template(dot, *span, name, pipe.as_ref())?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn walk_range_item(
        &mut self,
        pipe: &'e Pipe,
        key: Value<'e>,
        value: Value<'e>,
        list: &'e List,
    ) -> ExecResult<Flow> {
        self.step(0)?;
        match &pipe.variables[..] {
            [] => {}
            [one] => self.set_variable(pipe, one, value.clone()),
            [one, other, ..] => {
                self.set_variable(pipe, one, key);
                self.set_variable(pipe, other, value.clone());
            }
        }
        self.walk(&value, list)
    }

    fn set_variable(&mut self, pipe: &Pipe, name: &'e str, value: Value<'e>) {
        let binding = self.variables.iter_mut().rev().find(|(candidate, _)| pipe.is_assignment && *candidate == name);
        match binding {
            Some((_, binding)) => *binding = value,
            None => self.variables.push((name, value)),
        }
    }

    fn walk_template(&mut self, dot: &Value<'e>, span: Span, name: &str, pipe: Option<&'e Pipe>) -> ExecResult<()> {
        self.span = span;
        // If a name is defined twice, the later definition counts.
        let Some((_, list)) = self.tree.definitions.iter().rev().find(|(candidate, _)| candidate == name) else {
            return Err(format!("template {name:?} not defined"));
        };
        let dot = pipe.map_or(Ok(Value::None), |pipe| self.eval_pipe(dot, pipe))?;
        let caller_variables = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.walk(&dot, list)?;
        self.variables = caller_variables;
        Ok(())
    }

    fn eval_pipe(&mut self, dot: &Value<'e>, pipe: &'e Pipe) -> ExecResult<Value<'e>> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.eval_command(dot, command, last)?);
        }
        let value = last.unwrap_or(Value::None);
        // The two variables of a `range` are set for each of its items.
        if let [name] = &pipe.variables[..] {
            self.set_variable(pipe, name, value.clone());
        }
        Ok(value)
    }

    fn eval_command(
        &mut self,
        dot: &Value<'e>,
        command: &'e Command,
        last: Option<Value<'e>>,
    ) -> ExecResult<Value<'e>> {
        self.step(0)?;
        let (first, rest) = command.args.split_first().expect("a command has at least one operand");
        if let Term::Function(function) = &first.term {
            let value = self.call_function(dot, function, command.span, first, rest, last)?;
            return self.eval_fields(value, &first.fields);
        }
        self.span = first.span;
        let has_args = last.is_some() || !rest.is_empty();
        match first.fields.last() {
            None if has_args => Err(format!("can't give argument to non-function {}", self.source(first.span))),
            Some(field) if has_args => {
                self.eval_operand(dot, first)?;
                Err(format!("{field} has arguments but cannot be invoked as function"))
            }
            None if matches!(first.term, Term::Nil) => Err("nil is not a command".into()),
            _ => self.eval_operand(dot, first),
        }
    }

    fn eval_operand(&mut self, dot: &Value<'e>, operand: &'e Operand) -> ExecResult<Value<'e>> {
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
                let binding = self.variables.iter().rev().find(|(candidate, _)| candidate == name);
                binding.map_or(Value::None, |(_, value)| value.clone())
            }
            Term::Function(function) => self.call_function(dot, function, operand.span, operand, &[], None)?,
            Term::Pipe(pipe) => self.descend(|execution| execution.eval_pipe(dot, pipe))?,
        };
        self.span = operand.span;
        self.step(value.heap_size())?;
        self.eval_fields(value, &operand.fields)
    }

    fn eval_fields(&self, value: Value<'e>, fields: &[String]) -> ExecResult<Value<'e>> {
        fields.iter().try_fold(value, |value, name| {
            let field_value = match &value {
                Value::None => Some(Value::None),
                Value::Message(message) => message.field(name),
                Value::Actor(message) => message.actor_field(name),
                Value::Attributes(pairs) => Some(attribute(*pairs, name.as_bytes()).unwrap_or(Value::None)),
                _ => None,
            };
            field_value.ok_or_else(|| format!("can't evaluate field {name} in type {}", value.type_name()))
        })
    }

    fn call_function(
        &mut self,
        dot: &Value<'e>,
        function: &'static Function,
        span: Span,
        name: &'e Operand,
        args: &'e [Operand],
        last: Option<Value<'e>>,
    ) -> ExecResult<Value<'e>> {
        let count = args.len() + usize::from(last.is_some());
        self.span = name.span;
        function.check_arity(count)?;
        let mut values = Vec::with_capacity(count);
        for (index, arg) in args.iter().enumerate() {
            let value = self.eval_argument(dot, arg, function.parameter(index))?;
            if function.short_circuits_on(&value) {
                return Ok(value);
            }
            values.push(value);
        }
        self.span = span;
        if let Some(last) = last {
            function.parameter(args.len()).check(&last)?;
            values.push(last);
        }
        let value = function.call(&values).map_err(|message| format!("error calling {}: {message}", function.name))?;
        self.step(value.heap_size())?;
        Ok(value)
    }

    /// Evaluates an argument. A constant must have the type of the parameter.
    fn eval_argument(&mut self, dot: &Value<'e>, arg: &'e Operand, parameter: Parameter) -> ExecResult<Value<'e>> {
        self.span = arg.span;
        let source = self.source(arg.span);
        let constant = if arg.is_constant() { Some(&arg.term) } else { None };
        match (constant, parameter) {
            (Some(Term::Number(number)), Parameter::Int) if number.int.is_some() => {
                return Ok(Value::Int(number.int.unwrap_or_default()));
            }
            (Some(Term::Nil), Parameter::Str | Parameter::Int) => {
                return Err(format!("cannot assign nil to {}", parameter.type_name()));
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
        let value = self.eval_operand(dot, arg)?;
        parameter.check(&value)?;
        Ok(value)
    }
}

fn range_items(value: Value<'_>, variables: usize) -> ExecResult<Items<'_>> {
    Ok(match value {
        Value::None | Value::Attributes(None) => Box::new(std::iter::empty()),
        Value::Attributes(Some(pairs)) => {
            let text = |text| Value::text(Cow::Borrowed(text));
            Box::new(pairs.iter().map(move |(key, value)| (text(&**key), text(&**value))))
        }
        Value::List(list) => {
            Box::new((0..).zip(list).map(|(index, text)| (Value::Int(index), Value::owned_text(text))))
        }
        Value::Int(_) | Value::Int64(_) | Value::Byte(_) => {
            let number = value.as_int().unwrap_or_default();
            if variables > 1 {
                return Err(format!("can't use {number} to iterate over more than one variable"));
            }
            Box::new((0..number).map(|index| (Value::Int(index), Value::Int(index))))
        }
        value => {
            let mut rendered = Vec::new();
            print_value(&value, &mut rendered);
            return Err(format!("range can't iterate over {}", String::from_utf8_lossy(&rendered)));
        }
    })
}
