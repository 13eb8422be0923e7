//! Upper bound for the insert rate of SQLite: `bare_insert FILE.ndjson DB` inserts the raw lines into one table without
//! an index, as fast as possible with full durability (WAL, synchronous=FULL, commits of 5,000).

use std::io::{BufRead, BufReader};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut db = rusqlite::Connection::open(&args[1])?;
    for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL")] {
        db.pragma_update(None, name, value)?;
    }
    db.execute_batch("CREATE TABLE line (seq INTEGER PRIMARY KEY, raw TEXT NOT NULL) STRICT")?;
    let mut lines = BufReader::with_capacity(1 << 20, std::fs::File::open(&args[0])?);
    let mut line = String::new();
    let mut has_more = true;
    while has_more {
        let transaction = db.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO line (raw) VALUES (?1)")?;
            for _ in 0..5_000 {
                line.clear();
                has_more = lines.read_line(&mut line)? > 0;
                if !has_more {
                    break;
                }
                insert.execute([line.trim_end()])?;
            }
        }
        transaction.commit()?;
    }
    Ok(())
}
