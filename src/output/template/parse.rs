//! The tree of a template, and how it is read: Go's text/template/parse, with its words for what is wrong.

use super::constant::{Number, number, unquoted};
use super::functions::Function;
use super::lex::{Kind, SyntaxError, Token, words};

/// How deep parts of a template may stand in each other.
const DEPTH: usize = 50;

/// A part of the template, from one byte to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Where Go says that it is: of `.Actor.ID` at `.ID`.
    pub(super) at: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// What stands in a template, one after the other.
pub(super) type List = Vec<Node>;

#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    /// `{{template "name" pipeline}}`
    Call(Span, String, Option<Pipe>),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) list: List,
    pub(super) otherwise: List,
}

/// `$x := command | command`
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// `=` in place of `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Command>,
}

/// An operand, and what it is given.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) span: Span,
    pub(super) args: Vec<Operand>,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub(super) span: Span,
    pub(super) term: Term,
    /// `.Actor.ID` behind the term.
    pub(super) fields: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Str(Vec<u8>),
    Number(Number),
    Variable(String),
    Function(&'static Function),
    Pipe(Box<Pipe>),
}

impl Operand {
    /// Whether it says by itself what it is.
    pub(super) fn is_constant(&self) -> bool {
        let constant = matches!(self.term, Term::Bool(_) | Term::Dot | Term::Nil | Term::Number(_) | Term::Str(_));
        constant && self.fields.is_empty()
    }
}

/// A template, and those that it defines.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) list: List,
    pub(super) defined: Vec<(String, List)>,
}

/// Reads a template.
pub(super) fn parse(template: &str) -> Result<Tree, SyntaxError> {
    let words = words(template)?;
    let variables = vec!["$".into()];
    let mut parser = Parser { words, at: 0, variables, ranges: 0, depth: 0, defined: Vec::new() };
    let (list, _) = parser.list(true)?;
    Ok(Tree { list, defined: parser.defined })
}

struct Parser<'t> {
    words: Vec<Token<'t>>,
    at: usize,
    /// The names that are known here.
    variables: Vec<String>,
    /// How many `range` stand around.
    ranges: usize,
    depth: usize,
    defined: Vec<(String, List)>,
}

/// What ended a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    End,
    Else,
    /// The template itself.
    Here,
}

impl Ends {
    fn name(self) -> &'static str {
        match self {
            Ends::End => "{{end}}",
            Ends::Else => "{{else}}",
            Ends::Here => "EOF",
        }
    }
}

type Parsed<T> = Result<T, SyntaxError>;

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        self.words[self.at.min(self.words.len() - 1)]
    }

    fn next(&mut self) -> Token<'t> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn peek_word(&mut self) -> Token<'t> {
        while self.peek().kind == Kind::Space {
            self.at += 1;
        }
        self.peek()
    }

    fn next_word(&mut self) -> Token<'t> {
        self.peek_word();
        self.next()
    }

    /// Something is wrong with the word that was read last.
    fn wrong<T>(&self, what: impl Into<String>) -> Parsed<T> {
        let last = self.words[self.at.saturating_sub(1).min(self.words.len() - 1)];
        Err(SyntaxError { at: last.at, what: what.into() })
    }

    fn unexpected<T>(&self, token: Token<'_>, context: &str) -> Parsed<T> {
        let word = match token.kind {
            Kind::End => "EOF".into(),
            Kind::Keyword | Kind::Dot | Kind::Nil => format!("<{}>", token.text),
            _ if token.text.chars().count() > 10 => format!("{:?}...", token.text.chars().take(10).collect::<String>()),
            _ => format!("{:?}", token.text),
        };
        self.wrong(format!("unexpected {word} in {context}"))
    }

    fn close(&mut self, context: &str) -> Parsed<()> {
        match self.next_word() {
            token if token.kind == Kind::Close => Ok(()),
            token => self.unexpected(token, context),
        }
    }

    /// Goes a level deeper for as long as `inside` takes.
    fn deeper<T>(&mut self, inside: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == DEPTH {
            return self.wrong(format!("more than {DEPTH} levels deep"));
        }
        self.depth += 1;
        let done = inside(self);
        self.depth -= 1;
        done
    }

    /// What stands up to an `end` or `else`, or, of the whole template, up to its end.
    fn list(&mut self, whole: bool) -> Parsed<(List, Ends)> {
        let mut list = List::new();
        loop {
            let token = self.next();
            match token.kind {
                Kind::Text => list.push(Node::Text(token.text.into())),
                Kind::Open => {
                    let first = self.peek_word();
                    if let Some(ends) = self.ends(first)? {
                        return if whole {
                            self.wrong(format!("unexpected {}", ends.name()))
                        } else {
                            Ok((list, ends))
                        };
                    }
                    if whole && (first.kind, first.text) == (Kind::Keyword, "define") {
                        self.next();
                        self.define()?;
                    } else {
                        list.push(self.deeper(|parser| parser.action(first))?);
                    }
                }
                _ if whole => return Ok((list, Ends::Here)),
                _ => return self.wrong("unexpected EOF"),
            }
        }
    }

    /// Reads an `end` or an `else`, if it is one.
    fn ends(&mut self, first: Token<'_>) -> Parsed<Option<Ends>> {
        match (first.kind, first.text) {
            (Kind::Keyword, "end") => {
                self.next();
                self.close("end")?;
                Ok(Some(Ends::End))
            }
            (Kind::Keyword, "else") => {
                self.next();
                // `{{else if …}}` goes on.
                if !matches!(self.peek_word(), Token { kind: Kind::Keyword, text: "if" | "with", .. }) {
                    self.close("else")?;
                }
                Ok(Some(Ends::Else))
            }
            _ => Ok(None),
        }
    }

    fn define(&mut self) -> Parsed<()> {
        let (name, _) = self.template_name("define clause")?;
        self.close("define clause")?;
        self.body_of(name, "define clause")
    }

    /// Reads the rest of what begins with `define` or `block`.
    fn body_of(&mut self, name: String, context: &str) -> Parsed<()> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".into()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (list, ends) = self.deeper(|parser| parser.list(false))?;
        (self.variables, self.ranges) = (variables, ranges);
        if ends == Ends::Else {
            return self.wrong(format!("unexpected {} in {context}", ends.name()));
        }
        self.defined.push((name, list));
        Ok(())
    }

    fn template_name(&mut self, context: &str) -> Parsed<(String, Span)> {
        let token = self.next_word();
        let name = match token.kind {
            Kind::Str | Kind::RawStr => String::from_utf8_lossy(&self.unquote(token)?).into_owned(),
            _ => return self.unexpected(token, context),
        };
        Ok((name, Span { at: token.at, from: token.at, to: token.at + token.text.len() }))
    }

    fn action(&mut self, first: Token<'t>) -> Parsed<Node> {
        if first.kind != Kind::Keyword {
            return Ok(Node::Action(self.pipe("command", Kind::Close)?));
        }
        self.next();
        match first.text {
            "if" => Ok(Node::If(self.branch("if")?)),
            "with" => Ok(Node::With(self.branch("with")?)),
            "range" => Ok(Node::Range(self.branch("range")?)),
            "break" | "continue" => {
                let word = format!("{{{{{}}}}}", first.text);
                self.close(&word)?;
                if self.ranges == 0 {
                    return self.wrong(format!("{word} outside {{{{range}}}}"));
                }
                Ok(if first.text == "break" { Node::Break } else { Node::Continue })
            }
            "block" => {
                let (name, span) = self.template_name("block clause")?;
                let pipe = self.pipe("block clause", Kind::Close)?;
                self.body_of(name.clone(), "block clause")?;
                Ok(Node::Call(span, name, Some(pipe)))
            }
            "template" => {
                let (name, span) = self.template_name("template clause")?;
                let pipe = match self.peek_word().kind {
                    Kind::Close => {
                        self.next();
                        None
                    }
                    _ => Some(self.pipe("template clause", Kind::Close)?),
                };
                Ok(Node::Call(span, name, pipe))
            }
            _ => self.unexpected(first, "command"),
        }
    }

    fn branch(&mut self, context: &str) -> Parsed<Branch> {
        let known = self.variables.len();
        let pipe = self.pipe(context, Kind::Close)?;
        let in_range = usize::from(context == "range");
        self.ranges += in_range;
        let (list, ends) = self.list(false)?;
        self.ranges -= in_range;
        let otherwise = if ends == Ends::Else { self.otherwise(context)? } else { List::new() };
        self.variables.truncate(known);
        Ok(Branch { pipe, list, otherwise })
    }

    /// What stands behind an `else`.
    fn otherwise(&mut self, context: &str) -> Parsed<List> {
        let chained = self.peek_word();
        if chained.kind == Kind::Keyword && matches!(chained.text, "if" | "with") {
            if chained.text != context {
                self.next();
                return self.unexpected(chained, "input");
            }
            return Ok(vec![self.deeper(|parser| parser.action(chained))?]);
        }
        match self.list(false)? {
            (list, Ends::End) => Ok(list),
            (_, ends) => self.wrong(format!("expected end; found {}", ends.name())),
        }
    }

    fn pipe(&mut self, context: &str, end: Kind) -> Parsed<Pipe> {
        let mut pipe = Pipe { variables: Vec::new(), assigns: false, commands: Vec::new() };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.peek_word();
            match token.kind {
                kind if kind == end => break,
                Kind::Bool
                | Kind::CharConstant
                | Kind::Dot
                | Kind::Field
                | Kind::Identifier
                | Kind::Number
                | Kind::Nil
                | Kind::RawStr
                | Kind::Str
                | Kind::Variable
                | Kind::LeftParen => pipe.commands.push(self.command()?),
                _ => {
                    self.next();
                    return self.unexpected(token, context);
                }
            }
        }
        self.next();
        if pipe.commands.is_empty() {
            return self.wrong(format!("missing value for {context}"));
        }
        if let Some(at) = pipe.commands[1..].iter().position(|command| command.args[0].is_constant()) {
            return self.wrong(format!("non executable command in pipeline stage {}", at + 2));
        }
        Ok(pipe)
    }

    /// `$x :=`, `$x =`, and of a range `$i, $x :=`.
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Parsed<()> {
        while let Token { kind: Kind::Variable, text, .. } = self.peek_word() {
            let before = self.at;
            self.next();
            let after = self.peek_word();
            match after.kind {
                Kind::Assign | Kind::Declare => pipe.assigns = after.kind == Kind::Assign,
                Kind::Comma => {}
                _ => {
                    self.at = before;
                    break;
                }
            }
            self.next();
            pipe.variables.push(text.into());
            self.variables.push(text.into());
            if after.kind != Kind::Comma {
                break;
            }
            if context != "range" || pipe.variables.len() > 1 {
                return self.wrong(format!("too many declarations in {context}"));
            }
            if !matches!(self.peek_word().kind, Kind::Variable | Kind::Close | Kind::RightParen) {
                return self.wrong("range can only initialize variables");
            }
        }
        Ok(())
    }

    fn command(&mut self) -> Parsed<Command> {
        let from = self.peek_word().at;
        let mut to = from;
        let mut args = Vec::new();
        loop {
            self.peek_word();
            if let Some(operand) = self.operand()? {
                to = operand.span.to;
                args.push(operand);
            }
            let token = self.next();
            match token.kind {
                Kind::Space => continue,
                Kind::Close | Kind::RightParen => self.at -= 1,
                Kind::Pipe => {}
                _ => return self.unexpected(token, "operand"),
            }
            break;
        }
        if args.is_empty() {
            return self.wrong("empty command");
        }
        Ok(Command { span: Span { at: from, from, to }, args })
    }

    fn operand(&mut self) -> Parsed<Option<Operand>> {
        let first = self.peek_word();
        let Some(term) = self.term()? else { return Ok(None) };
        let span = Span { at: first.at, from: first.at, to: first.at };
        let mut operand = Operand { span, term, fields: Vec::new() };
        if first.kind == Kind::Field {
            operand.fields.push(first.text[1..].into());
        }
        let is_constant = operand.is_constant();
        if self.peek().kind == Kind::Field {
            operand.span.at = self.peek().at;
        }
        while self.peek().kind == Kind::Field {
            if is_constant {
                return self.wrong(format!("unexpected . after term {:?}", first.text));
            }
            operand.fields.push(self.next().text[1..].into());
        }
        let last = self.words[self.at - 1];
        operand.span.to = last.at + last.text.len();
        Ok(Some(operand))
    }

    fn term(&mut self) -> Parsed<Option<Term>> {
        let token = self.next_word();
        Ok(Some(match token.kind {
            Kind::Dot | Kind::Field => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Bool => Term::Bool(token.text == "true"),
            Kind::Str | Kind::RawStr => Term::Str(self.unquote(token)?),
            Kind::Number | Kind::CharConstant => Term::Number(number(token.text).or_else(|what| self.wrong(what))?),
            Kind::Variable => match self.variables.iter().any(|name| name == token.text) {
                true => Term::Variable(token.text.into()),
                false => return self.wrong(format!("undefined variable {:?}", token.text)),
            },
            Kind::Identifier => match Function::named(token.text) {
                Some(function) => Term::Function(function),
                None => return self.wrong(format!("function {:?} not defined", token.text)),
            },
            Kind::LeftParen => {
                let pipe = self.deeper(|parser| parser.pipe("parenthesized pipeline", Kind::RightParen))?;
                Term::Pipe(Box::new(pipe))
            }
            _ => {
                self.at -= 1;
                return Ok(None);
            }
        }))
    }

    fn unquote(&self, token: Token<'_>) -> Parsed<Vec<u8>> {
        if token.kind == Kind::RawStr {
            return Ok(token.text[1..token.text.len() - 1].replace('\r', "").into_bytes());
        }
        unquoted(token.text).map_or_else(|| self.wrong("invalid syntax"), Ok)
    }
}
