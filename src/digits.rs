//! Digits of phone numbers.

/// The page that shows a card asks for this number of last digits of the phone number, so templates mask these digits.
pub(crate) const DIGITS: usize = 4;

/// The ASCII digit for a Western, Arabic, Persian or full-width digit, or `None` for any other character.
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
