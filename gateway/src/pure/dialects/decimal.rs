//! Large numbers in decimal digits.

/// A big-endian number of any length, in decimal digits without leading zeros.
pub(super) fn decimal(number: &[u8]) -> String {
    let mut number = number.to_vec();
    let mut digits = Vec::new();
    loop {
        let mut remainder = 0;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            // A remainder is below 10, so the quotient is below 256.
            *byte = u8::try_from(value / 10).expect("a quotient of less than 2560 by 10");
            remainder = value % 10;
        }
        digits.push(char::from_digit(remainder, 10).expect("less than 10"));
        if number.iter().all(|byte| *byte == 0) {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_digits() {
        for (number, expected) in [
            (&[][..], "0"),
            (&[0], "0"),
            (&[9], "9"),
            (&[10], "10"),
            (&[0, 1, 0], "256"),
            (&[0xff; 8], "18446744073709551615"),
            (
                &[0x7f; 20],
                "727885129180488904360266563744972327436484050815",
            ),
        ] {
            assert_eq!(decimal(number), expected);
        }
    }
}
