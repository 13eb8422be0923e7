//! Parses a template into a tree, as Go's text/template/parse does, with its error messages.

use super::constant::{Number, parse_number, unquote};
use super::functions::Function;
use super::lex::{SyntaxError, Token, TokenKind, tokenize};

/// Maximum nesting depth of a template.
const MAX_DEPTH: usize = 50;

/// A range of bytes of the template: `from` is inclusive, `to` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Offset that Go reports in errors: for `.Actor.ID` that of `.ID`.
    pub(super) offset: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// A sequence of nodes.
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
    pub(super) else_list: List,
}

/// `$x := command | command`
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// `=` in place of `:=`.
    pub(super) is_assignment: bool,
    pub(super) commands: Vec<Command>,
}

/// An operand and its arguments.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) span: Span,
    pub(super) args: Vec<Operand>,
}

#[derive(Debug)]
pub(super) struct Operand {
    pub(super) span: Span,
    pub(super) term: Term,
    /// Fields after the term, as in `.Actor.ID`.
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
    /// Returns true if the operand is a literal, `nil` or `.`, without fields.
    pub(super) fn is_constant(&self) -> bool {
        let constant = matches!(self.term, Term::Bool(_) | Term::Dot | Term::Nil | Term::Number(_) | Term::Str(_));
        constant && self.fields.is_empty()
    }
}

/// A template, and the templates that it defines.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) list: List,
    pub(super) definitions: Vec<(String, List)>,
}

/// Parses a template.
pub(super) fn parse(template: &str) -> Result<Tree, SyntaxError> {
    let tokens = tokenize(template)?;
    let variables = vec!["$".into()];
    let mut parser = Parser { tokens, position: 0, variables, range_depth: 0, depth: 0, definitions: Vec::new() };
    let (list, _) = parser.list(true)?;
    Ok(Tree { list, definitions: parser.definitions })
}

struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    position: usize,
    /// Names of the variables in scope.
    variables: Vec<String>,
    /// Number of enclosing `range` actions.
    range_depth: usize,
    depth: usize,
    definitions: Vec<(String, List)>,
}

/// End of a list of nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListEnd {
    End,
    Else,
    /// End of the template.
    Eof,
}

impl ListEnd {
    fn name(self) -> &'static str {
        match self {
            ListEnd::End => "{{end}}",
            ListEnd::Else => "{{else}}",
            ListEnd::Eof => "EOF",
        }
    }
}

type ParseResult<T> = Result<T, SyntaxError>;

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        self.tokens[self.position.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token<'t> {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn peek_non_space(&mut self) -> Token<'t> {
        while self.peek().kind == TokenKind::Space {
            self.position += 1;
        }
        self.peek()
    }

    fn next_non_space(&mut self) -> Token<'t> {
        self.peek_non_space();
        self.next()
    }

    /// Returns an error at the last token read.
    fn error<T>(&self, message: impl Into<String>) -> ParseResult<T> {
        let last = self.tokens[self.position.saturating_sub(1).min(self.tokens.len() - 1)];
        Err(SyntaxError { offset: last.offset, message: message.into() })
    }

    fn unexpected<T>(&self, token: Token<'_>, context: &str) -> ParseResult<T> {
        let token_text = match token.kind {
            TokenKind::Eof => "EOF".into(),
            TokenKind::Keyword | TokenKind::Dot | TokenKind::Nil => format!("<{}>", token.text),
            _ if token.text.chars().count() > 10 => format!("{:?}...", token.text.chars().take(10).collect::<String>()),
            _ => format!("{:?}", token.text),
        };
        self.error(format!("unexpected {token_text} in {context}"))
    }

    fn expect_right_delim(&mut self, context: &str) -> ParseResult<()> {
        match self.next_non_space() {
            token if token.kind == TokenKind::RightDelim => Ok(()),
            token => self.unexpected(token, context),
        }
    }

    /// Runs `body` one level deeper.
    fn descend<T>(&mut self, body: impl FnOnce(&mut Self) -> ParseResult<T>) -> ParseResult<T> {
        if self.depth == MAX_DEPTH {
            return self.error(format!("nested more than {MAX_DEPTH} levels deep"));
        }
        self.depth += 1;
        let result = body(self);
        self.depth -= 1;
        result
    }

    /// Parses nodes up to `end` or `else`, or at the top level up to the end of the template.
    fn list(&mut self, is_top_level: bool) -> ParseResult<(List, ListEnd)> {
        let mut list = List::new();
        loop {
            let token = self.next();
            match token.kind {
                TokenKind::Text => list.push(Node::Text(token.text.into())),
                TokenKind::LeftDelim => {
                    let first = self.peek_non_space();
                    if let Some(end) = self.list_end(first)? {
                        return if is_top_level {
                            self.error(format!("unexpected {}", end.name()))
                        } else {
                            Ok((list, end))
                        };
                    }
                    if is_top_level && (first.kind, first.text) == (TokenKind::Keyword, "define") {
                        self.next();
                        self.define()?;
                    } else {
                        list.push(self.descend(|parser| parser.action(first))?);
                    }
                }
                _ if is_top_level => return Ok((list, ListEnd::Eof)),
                _ => return self.error("unexpected EOF"),
            }
        }
    }

    /// Parses an `end` or an `else`, if `first` is one.
    fn list_end(&mut self, first: Token<'_>) -> ParseResult<Option<ListEnd>> {
        match (first.kind, first.text) {
            (TokenKind::Keyword, "end") => {
                self.next();
                self.expect_right_delim("end")?;
                Ok(Some(ListEnd::End))
            }
            (TokenKind::Keyword, "else") => {
                self.next();
                // The condition of `{{else if …}}` follows.
                if !matches!(self.peek_non_space(), Token { kind: TokenKind::Keyword, text: "if" | "with", .. }) {
                    self.expect_right_delim("else")?;
                }
                Ok(Some(ListEnd::Else))
            }
            _ => Ok(None),
        }
    }

    fn define(&mut self) -> ParseResult<()> {
        let (name, _) = self.template_name("define clause")?;
        self.expect_right_delim("define clause")?;
        self.definition_body(name, "define clause")
    }

    /// Parses the body of a `define` or `block`.
    fn definition_body(&mut self, name: String, context: &str) -> ParseResult<()> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".into()]);
        let range_depth = std::mem::take(&mut self.range_depth);
        let (list, end) = self.descend(|parser| parser.list(false))?;
        (self.variables, self.range_depth) = (variables, range_depth);
        if end == ListEnd::Else {
            return self.error(format!("unexpected {} in {context}", end.name()));
        }
        self.definitions.push((name, list));
        Ok(())
    }

    fn template_name(&mut self, context: &str) -> ParseResult<(String, Span)> {
        let token = self.next_non_space();
        let name = match token.kind {
            TokenKind::Str | TokenKind::RawStr => String::from_utf8_lossy(&self.unquote(token)?).into_owned(),
            _ => return self.unexpected(token, context),
        };
        Ok((name, Span { offset: token.offset, from: token.offset, to: token.offset + token.text.len() }))
    }

    fn action(&mut self, first: Token<'t>) -> ParseResult<Node> {
        if first.kind != TokenKind::Keyword {
            return Ok(Node::Action(self.pipe("command", TokenKind::RightDelim)?));
        }
        self.next();
        match first.text {
            "if" => Ok(Node::If(self.branch("if")?)),
            "with" => Ok(Node::With(self.branch("with")?)),
            "range" => Ok(Node::Range(self.branch("range")?)),
            "break" | "continue" => {
                let keyword = format!("{{{{{}}}}}", first.text);
                self.expect_right_delim(&keyword)?;
                if self.range_depth == 0 {
                    return self.error(format!("{keyword} outside {{{{range}}}}"));
                }
                Ok(if first.text == "break" { Node::Break } else { Node::Continue })
            }
            "block" => {
                let (name, span) = self.template_name("block clause")?;
                let pipe = self.pipe("block clause", TokenKind::RightDelim)?;
                self.definition_body(name.clone(), "block clause")?;
                Ok(Node::Call(span, name, Some(pipe)))
            }
            "template" => {
                let (name, span) = self.template_name("template clause")?;
                let pipe = match self.peek_non_space().kind {
                    TokenKind::RightDelim => {
                        self.next();
                        None
                    }
                    _ => Some(self.pipe("template clause", TokenKind::RightDelim)?),
                };
                Ok(Node::Call(span, name, pipe))
            }
            _ => self.unexpected(first, "command"),
        }
    }

    fn branch(&mut self, context: &str) -> ParseResult<Branch> {
        let variable_count = self.variables.len();
        let pipe = self.pipe(context, TokenKind::RightDelim)?;
        let in_range = usize::from(context == "range");
        self.range_depth += in_range;
        let (list, end) = self.list(false)?;
        self.range_depth -= in_range;
        let else_list = if end == ListEnd::Else { self.else_list(context)? } else { List::new() };
        self.variables.truncate(variable_count);
        Ok(Branch { pipe, list, else_list })
    }

    /// Parses the nodes after an `else`.
    fn else_list(&mut self, context: &str) -> ParseResult<List> {
        let chained = self.peek_non_space();
        if chained.kind == TokenKind::Keyword && matches!(chained.text, "if" | "with") {
            if chained.text != context {
                self.next();
                return self.unexpected(chained, "input");
            }
            return Ok(vec![self.descend(|parser| parser.action(chained))?]);
        }
        match self.list(false)? {
            (list, ListEnd::End) => Ok(list),
            (_, end) => self.error(format!("expected end; found {}", end.name())),
        }
    }

    fn pipe(&mut self, context: &str, end: TokenKind) -> ParseResult<Pipe> {
        let mut pipe = Pipe { variables: Vec::new(), is_assignment: false, commands: Vec::new() };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.peek_non_space();
            match token.kind {
                kind if kind == end => break,
                TokenKind::Bool
                | TokenKind::CharConstant
                | TokenKind::Dot
                | TokenKind::Field
                | TokenKind::Identifier
                | TokenKind::Number
                | TokenKind::Nil
                | TokenKind::RawStr
                | TokenKind::Str
                | TokenKind::Variable
                | TokenKind::LeftParen => pipe.commands.push(self.command()?),
                _ => {
                    self.next();
                    return self.unexpected(token, context);
                }
            }
        }
        self.next();
        if pipe.commands.is_empty() {
            return self.error(format!("missing value for {context}"));
        }
        if let Some(index) = pipe.commands[1..].iter().position(|command| command.args[0].is_constant()) {
            return self.error(format!("non executable command in pipeline stage {}", index + 2));
        }
        Ok(pipe)
    }

    /// Parses `$x :=` or `$x =`, and in a `range` also `$i, $x :=`.
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> ParseResult<()> {
        while let Token { kind: TokenKind::Variable, text, .. } = self.peek_non_space() {
            let start = self.position;
            self.next();
            let after = self.peek_non_space();
            match after.kind {
                TokenKind::Assign | TokenKind::Declare => pipe.is_assignment = after.kind == TokenKind::Assign,
                TokenKind::Comma => {}
                _ => {
                    self.position = start;
                    break;
                }
            }
            self.next();
            pipe.variables.push(text.into());
            self.variables.push(text.into());
            if after.kind != TokenKind::Comma {
                break;
            }
            if context != "range" || pipe.variables.len() > 1 {
                return self.error(format!("too many declarations in {context}"));
            }
            if !matches!(
                self.peek_non_space().kind,
                TokenKind::Variable | TokenKind::RightDelim | TokenKind::RightParen
            ) {
                return self.error("range can only initialize variables");
            }
        }
        Ok(())
    }

    fn command(&mut self) -> ParseResult<Command> {
        let from = self.peek_non_space().offset;
        let mut to = from;
        let mut args = Vec::new();
        loop {
            self.peek_non_space();
            if let Some(operand) = self.operand()? {
                to = operand.span.to;
                args.push(operand);
            }
            let token = self.next();
            match token.kind {
                TokenKind::Space => continue,
                TokenKind::RightDelim | TokenKind::RightParen => self.position -= 1,
                TokenKind::Pipe => {}
                _ => return self.unexpected(token, "operand"),
            }
            break;
        }
        if args.is_empty() {
            return self.error("empty command");
        }
        Ok(Command { span: Span { offset: from, from, to }, args })
    }

    fn operand(&mut self) -> ParseResult<Option<Operand>> {
        let first = self.peek_non_space();
        let Some(term) = self.term()? else { return Ok(None) };
        let span = Span { offset: first.offset, from: first.offset, to: first.offset };
        let mut operand = Operand { span, term, fields: Vec::new() };
        if first.kind == TokenKind::Field {
            operand.fields.push(first.text[1..].into());
        }
        let is_constant = operand.is_constant();
        if self.peek().kind == TokenKind::Field {
            operand.span.offset = self.peek().offset;
        }
        while self.peek().kind == TokenKind::Field {
            if is_constant {
                return self.error(format!("unexpected . after term {:?}", first.text));
            }
            operand.fields.push(self.next().text[1..].into());
        }
        let last = self.tokens[self.position - 1];
        operand.span.to = last.offset + last.text.len();
        Ok(Some(operand))
    }

    fn term(&mut self) -> ParseResult<Option<Term>> {
        let token = self.next_non_space();
        Ok(Some(match token.kind {
            TokenKind::Dot | TokenKind::Field => Term::Dot,
            TokenKind::Nil => Term::Nil,
            TokenKind::Bool => Term::Bool(token.text == "true"),
            TokenKind::Str | TokenKind::RawStr => Term::Str(self.unquote(token)?),
            TokenKind::Number | TokenKind::CharConstant => {
                Term::Number(parse_number(token.text).or_else(|message| self.error(message))?)
            }
            TokenKind::Variable => match self.variables.iter().any(|name| name == token.text) {
                true => Term::Variable(token.text.into()),
                false => return self.error(format!("undefined variable {:?}", token.text)),
            },
            TokenKind::Identifier => match Function::find(token.text) {
                Some(function) => Term::Function(function),
                None => return self.error(format!("function {:?} not defined", token.text)),
            },
            TokenKind::LeftParen => {
                let pipe = self.descend(|parser| parser.pipe("parenthesized pipeline", TokenKind::RightParen))?;
                Term::Pipe(Box::new(pipe))
            }
            _ => {
                self.position -= 1;
                return Ok(None);
            }
        }))
    }

    fn unquote(&self, token: Token<'_>) -> ParseResult<Vec<u8>> {
        if token.kind == TokenKind::RawStr {
            return Ok(token.text[1..token.text.len() - 1].replace('\r', "").into_bytes());
        }
        unquote(token.text).map_or_else(|| self.error("invalid syntax"), Ok)
    }
}
