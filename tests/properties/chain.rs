//! The hash chain: a head is written in one way and read back.

use events::store::Head;

pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(head) = text.parse::<Head>() {
        let zeros = text.bytes().take_while(|byte| *byte == b'0').count();
        let zeros = if text[zeros..].starts_with(':') { zeros - 1 } else { zeros };
        assert_eq!(head.to_string(), text[zeros..]);
    }
    if let Some((seq, hash)) = input.split_first_chunk().and_then(|(seq, rest)| Some((seq, rest.first_chunk()?))) {
        let head = Head { seq: i64::from_le_bytes(*seq) & i64::MAX, hash: *hash };
        assert_eq!(head.to_string().parse(), Ok(head));
    }
}
