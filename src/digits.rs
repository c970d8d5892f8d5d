//! Digits of phone numbers.

/// How many of the last digits of the order's number are asked for.
pub(crate) const DIGITS: usize = 4;

/// A digit as the numbers are stored, also where a keyboard writes Arabic ones; nothing for anything else.
pub(crate) fn western_digit(written: char) -> Option<char> {
    let value = match written {
        '0'..='9' => return Some(written),
        '\u{660}'..='\u{669}' => written as u32 - 0x660,
        '\u{6f0}'..='\u{6f9}' => written as u32 - 0x6f0,
        '\u{ff10}'..='\u{ff19}' => written as u32 - 0xff10,
        _ => return None,
    };
    char::from_digit(value, 10)
}
