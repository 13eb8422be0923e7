//! Writes CSV (RFC 4180) with the columns of the store's view `events`. It is safe to open in a spreadsheet.

use std::io::{self, Write};

use ::csv::{Terminator, WriterBuilder};

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
        self.write_cells(COLUMNS.map(str::to_owned), out)
    }

    /// Writes one event. Attributes are a JSON object.
    pub(super) fn write_event(
        &mut self,
        record: &Record<'_>,
        event: &Event<'_>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.write_header(out)?;
        let cells = [
            record.seq.to_string(),
            cell(record.source),
            rfc3339(record.received_nano),
            rfc3339(event.time_nano),
            cell(&event.kind),
            cell(&event.action),
            cell(&event.actor_id),
            cell(event.attribute("name").unwrap_or_default()),
            cell(event.attribute("image").unwrap_or_default()),
            attributes_json(event),
            event.time_nano.to_string(),
        ];
        self.write_cells(cells, out)
    }

    fn write_cells(&mut self, cells: [String; COLUMNS.len()], out: &mut impl Write) -> io::Result<()> {
        let first = if self.has_envelope { 0 } else { ENVELOPE_COLUMNS };
        self.row.clear();
        let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(&mut self.row);
        writer.write_record(&cells[first..]).map_err(io::Error::other)?;
        writer.flush()?;
        drop(writer);
        out.write_all(&self.row)
    }
}

/// Returns the attributes as a JSON object.
fn attributes_json(event: &Event<'_>) -> String {
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
    String::from_utf8_lossy(&json).into_owned()
}

/// Returns the content of a cell. A single quote precedes text that a spreadsheet would take for a formula, as OWASP
/// advises.
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    if is_formula { format!("'{text}") } else { text.to_owned() }
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
