//! The `expiration` property: a number of milliseconds in text, as RabbitMQ reads it.

use leveret_protocol::AmqpError;

/// Ten years: the longest time to live.
const LONGEST: i128 = 315_360_000_000;

/// Milliseconds. Errors: 406 with the detail that RabbitMQ gives.
pub fn parse(text: &[u8]) -> Result<u64, AmqpError> {
    let shown = || leveret_protocol::error::text_of(text);
    let refuse =
        |detail: String| Err(AmqpError::precondition_failed(format!("invalid expiration '{}': {detail}", shown())));
    let sign = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let digits = text[sign..].iter().take_while(|octet| octet.is_ascii_digit()).count();
    if digits == 0 {
        return refuse("no_integer".into());
    }
    let rest = &text[sign + digits..];
    if !rest.is_empty() {
        return refuse(format!("{{leftover_string,\"{}\"}}", leveret_protocol::error::text_of(rest)));
    }
    // More digits than this is too large whatever they are.
    let value =
        text[sign..].iter().fold(0i128, |value, octet| (value * 10 + i128::from(octet - b'0')).min(i128::MAX / 100));
    match (text[0], value) {
        (b'-', 1..) => refuse(format!("{{value_negative,-{value}}}")),
        (_, ..=LONGEST) => Ok(value as u64),
        _ => refuse(format!("{{value_too_large,{value}}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_number_with_sign_and_zeros_is_read() {
        for (text, milliseconds) in
            [("0", 0), ("0100", 100), ("+100", 100), ("-0", 0), ("315360000000", 315_360_000_000)]
        {
            assert_eq!(parse(text.as_bytes()).unwrap(), milliseconds, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let cases = [
            ("", "no_integer"),
            ("abc", "no_integer"),
            (" 1", "no_integer"),
            ("100ms", "{leftover_string,\"ms\"}"),
            ("1.5", "{leftover_string,\".5\"}"),
            ("-1", "{value_negative,-1}"),
            ("315360000001", "{value_too_large,315360000001}"),
        ];
        for (text, detail) in cases {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.reply_text(), format!("PRECONDITION_FAILED - invalid expiration '{text}': {detail}"));
        }
    }
}
