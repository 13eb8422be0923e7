//! Writes CSV (RFC 4180) with the columns of the store's view `events`. It is safe to open in a spreadsheet.

use std::borrow::Cow;
use std::io::{self, Write};

use ::csv::{self, Terminator, Writer, WriterBuilder};

use super::Record;
use crate::event::{Event, write_json_string};
use crate::query::time::rfc3339;

/// Names of the columns. Those before `time` belong to the envelope.
const COLUMNS: [&str; 11] =
    ["seq", "source", "received", "time", "type", "action", "actor_id", "name", "image", "attributes", "time_nano"];

/// Number of columns of the envelope.
const ENVELOPE_COLUMNS: usize = 3;

/// Writer of rows, with a buffer for one row.
#[derive(Debug)]
pub(super) struct Rows {
    has_envelope: bool,
    has_header: bool,
    row: Vec<u8>,
}

impl Rows {
    pub(super) fn new(has_envelope: bool) -> Rows {
        Rows { has_envelope, has_header: false, row: Vec::new() }
    }

    /// Writes the names of the columns, if they are not written yet.
    pub(super) fn write_header(&mut self, out: &mut impl Write) -> io::Result<()> {
        if std::mem::replace(&mut self.has_header, true) {
            return Ok(());
        }
        let first = if self.has_envelope { 0 } else { ENVELOPE_COLUMNS };
        self.write_row(out, |row| COLUMNS[first..].iter().try_for_each(|name| row.write_field(name)))
    }

    /// Writes one event. Attributes are a JSON object.
    pub(super) fn write_event(
        &mut self,
        record: &Record<'_>,
        event: &Event<'_>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.write_header(out)?;
        let has_envelope = self.has_envelope;
        self.write_row(out, |row| {
            if has_envelope {
                row.write_field(record.seq.to_string())?;
                row.write_field(&*cell(record.source))?;
                row.write_field(rfc3339(record.received_nano))?;
            }
            row.write_field(rfc3339(event.time_nano))?;
            row.write_field(&*cell(&event.kind))?;
            row.write_field(&*cell(&event.action))?;
            row.write_field(&*cell(&event.actor_id))?;
            row.write_field(&*cell(event.attribute("name").unwrap_or_default()))?;
            row.write_field(&*cell(event.attribute("image").unwrap_or_default()))?;
            row.write_field(attributes_json(event))?;
            row.write_field(event.time_nano.to_string())
        })
    }

    /// Writes one row, whose cells `write_cells` adds.
    fn write_row(
        &mut self,
        out: &mut impl Write,
        write_cells: impl FnOnce(&mut Writer<&mut Vec<u8>>) -> csv::Result<()>,
    ) -> io::Result<()> {
        self.row.clear();
        let mut row =
            WriterBuilder::new().terminator(Terminator::CRLF).buffer_capacity(1024).from_writer(&mut self.row);
        write_cells(&mut row).and_then(|()| row.write_record(None::<&[u8]>)).map_err(io::Error::other)?;
        row.flush()?;
        drop(row);
        out.write_all(&self.row)
    }
}

/// Returns the attributes as a JSON object.
fn attributes_json(event: &Event<'_>) -> Vec<u8> {
    let mut json = vec![b'{'];
    for (index, (key, value)) in event.attributes.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_json_string(key, &mut json);
        json.push(b':');
        write_json_string(value, &mut json);
    }
    json.push(b'}');
    json
}

/// Returns the content of a cell. A single quote precedes text that a spreadsheet would take for a formula, as OWASP
/// advises.
fn cell(text: &str) -> Cow<'_, str> {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    if is_formula { format!("'{text}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_escaped() {
        let formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "=\"a\""];
        assert!(formulas.iter().all(|text| cell(text) == format!("'{text}")));
        assert!(["", "web", "a=1", "ü"].iter().all(|text| cell(text) == *text));
    }

    #[test]
    fn rows_match_the_header() {
        let json = r#"{"Type":"container","Action":"exec_create: sh -c \"a,b\"","Actor":{"ID":"c1","Attributes":{"image":"b","name":"=w","x":"<\n>"}},"time":1}"#;
        let event = Event::parse(json.as_bytes()).unwrap();
        let record = Record { raw: json.as_bytes(), seq: 7, source: "a,b", received_nano: 2_000_000_000 };
        let mut out = Vec::new();
        Rows::new(true).write_event(&record, &event, &mut out).unwrap();
        let attributes = r#""{""image"":""b"",""name"":""=w"",""x"":""\u003c\n\u003e""}""#;
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "seq,source,received,time,type,action,actor_id,name,image,attributes,time_nano\r\n\
                 7,\"a,b\",1970-01-01T00:00:02.000000000Z,1970-01-01T00:00:01.000000000Z,container,\
                 \"exec_create: sh -c \"\"a,b\"\"\",c1,'=w,b,{attributes},1000000000\r\n"
            )
        );
    }
}
