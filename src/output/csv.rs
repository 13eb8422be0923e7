//! Writes CSV (RFC 4180) with the columns of the store's view `events`. It is safe to open in a spreadsheet.

use std::io::{self, Write};

use super::Record;
use crate::event::{Event, write_json_string};
use crate::query::time::rfc3339;

/// Writes the names of the columns.
pub(super) fn write_header(envelope: bool, out: &mut impl Write) -> io::Result<()> {
    if envelope {
        out.write_all(b"seq,source,received,")?;
    }
    out.write_all(b"time,type,action,actor_id,name,image,attributes,time_nano\r\n")
}

/// Writes one event. Attributes are a JSON object.
pub(super) fn write_row(
    record: &Record<'_>,
    event: &Event<'_>,
    envelope: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    if envelope {
        write!(out, "{},", record.seq)?;
        write_cell(record.source, out)?;
        write!(out, ",{},", rfc3339(record.received_nano))?;
    }
    let mut attributes = Vec::new();
    for (index, (key, value)) in event.attributes.iter().enumerate() {
        attributes.push(if index == 0 { b'{' } else { b',' });
        write_json_string(key, &mut attributes);
        attributes.push(b':');
        write_json_string(value, &mut attributes);
    }
    attributes.extend_from_slice(if event.attributes.is_empty() { b"{}" } else { b"}" });
    write!(out, "{},", rfc3339(event.time_nano))?;
    for text in [
        &*event.kind,
        &*event.action,
        &*event.actor_id,
        event.attribute("name").unwrap_or_default(),
        event.attribute("image").unwrap_or_default(),
        &*String::from_utf8_lossy(&attributes),
    ] {
        write_cell(text, out)?;
        out.write_all(b",")?;
    }
    write!(out, "{}\r\n", event.time_nano)
}

/// Writes one cell. A single quote precedes text that a spreadsheet would take for a formula, as OWASP advises.
fn write_cell(text: &str, out: &mut impl Write) -> io::Result<()> {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    if !is_formula && !text.contains([',', '"', '\r', '\n']) {
        return out.write_all(text.as_bytes());
    }
    let prefix = if is_formula { "'" } else { "" };
    write!(out, "\"{prefix}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(texts: &[&str]) -> Vec<String> {
        let render = |text: &&str| {
            let mut out = Vec::new();
            write_cell(text, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        texts.iter().map(render).collect()
    }

    #[test]
    fn cells_are_quoted_when_needed() {
        assert_eq!(cells(&["", "web", "a b", "ü"]), ["", "web", "a b", "ü"]);
        assert_eq!(cells(&["a,b", "a\"b", "a\nb", "a\r\nb"]), ["\"a,b\"", "\"a\"\"b\"", "\"a\nb\"", "\"a\r\nb\""]);
    }

    #[test]
    fn formulas_are_escaped() {
        assert_eq!(
            cells(&["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "=\"a\"", "a=1"]),
            [
                "\"'=1+1\"",
                "\"'+1\"",
                "\"'-1\"",
                "\"'@SUM(A1)\"",
                "\"'\t=1\"",
                "\"'\r=1\"",
                "\"'＝1\"",
                "\"'=\"\"a\"\"\"",
                "a=1"
            ]
        );
    }

    #[test]
    fn rows_match_the_header() {
        let json = r#"{"Type":"container","Action":"exec_create: sh -c \"a,b\"","Actor":{"ID":"c1","Attributes":{"image":"b","name":"=w","x":"<\n>"}},"time":1}"#;
        let event = Event::parse(json.as_bytes()).unwrap();
        let record = Record { raw: json.as_bytes(), seq: 7, source: "a,b", received_nano: 2_000_000_000 };
        let mut out = Vec::new();
        write_header(true, &mut out).unwrap();
        write_row(&record, &event, true, &mut out).unwrap();
        let attributes = r#""{""image"":""b"",""name"":""=w"",""x"":""\u003c\n\u003e""}""#;
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                "seq,source,received,time,type,action,actor_id,name,image,attributes,time_nano\r\n\
                 7,\"a,b\",1970-01-01T00:00:02.000000000Z,1970-01-01T00:00:01.000000000Z,container,\
                 \"exec_create: sh -c \"\"a,b\"\"\",c1,\"'=w\",b,{attributes},1000000000\r\n"
            )
        );
    }
}
