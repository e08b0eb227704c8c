//! The Internet checksum (RFC 1071).

/// A sum of half-words or four-byte words as it goes into a header.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// The new checksum after one half-word of the covered bytes has changed (RFC 1624).
#[inline(always)]
pub const fn replaced(checksum: u16, old: u16, new: u16) -> u16 {
    finish(!checksum as u32 + !old as u32 + new as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(words: &[u16]) -> u16 {
        finish(words.iter().map(|word| u32::from(*word)).sum())
    }

    #[test]
    fn checksum_matches_the_example_of_rfc_1071() {
        assert_eq!(of(&[0x0001, 0xf203, 0xf4f5, 0xf6f7]), !0xddf2);
    }

    proptest! {
        #[test]
        fn checksum_updated_for_one_word_equals_the_full_checksum(
            words in proptest::collection::vec(any::<u16>(), 2..64),
            new: u16,
        ) {
            let before = of(&words);
            let mut changed = words.clone();
            changed[0] = new;
            let after = replaced(before, words[0], new);
            // Two ways to write zero.
            let same = |a: u16, b: u16| a == b || a ^ b == 0xffff && (a == 0 || b == 0);
            prop_assert!(same(after, of(&changed)), "{after:#x} {:#x}", of(&changed));
        }
    }
}
