//! RSA moduli that others can factor. A certificate for such a key would vouch for whoever has the patience.
//!
//! CA/Browser Forum, Baseline Requirements, section 6.1.1.3, names both kinds: ROCA and close primes.

use num_bigint::BigUint;

/// How a modulus gives its factors away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weakness {
    /// Its primes have the form of CVE-2017-15361.
    Roca,
    /// Its primes are so close that Fermat's method finds them.
    ClosePrimes,
}

/// Looks at a modulus, given in big-endian bytes. The cost grows with the square of its length alone.
pub(super) fn weakness(modulus: &[u8]) -> Option<Weakness> {
    let modulus = BigUint::from_bytes_be(modulus);
    if has_roca_fingerprint(&modulus) {
        return Some(Weakness::Roca);
    }
    has_close_primes(&modulus).then_some(Weakness::ClosePrimes)
}

/// Whether the modulus is a power of 65537 modulo every one of [`ROCA_PRIMES`].
///
/// Nemec and others, "The Return of Coppersmith's Attack", ACM CCS 2017, section 2: the broken library made
/// primes `k * M + (65537^a mod M)`, where `M` is the product of the first primes, so that their product is a
/// power of 65537 modulo every divisor of `M`. Of honest moduli one in 2^27 looks like that.
fn has_roca_fingerprint(modulus: &BigUint) -> bool {
    ROCA_PRIMES.iter().all(|&prime| {
        let residue = modulus % prime;
        let generator = 65_537 % prime;
        let mut power = 1;
        // The powers of the generator come back to 1 after fewer than `prime` steps.
        (1..prime).any(|_| {
            power = power * generator % prime;
            BigUint::from(power) == residue
        })
    })
}

/// Whether Fermat's method factors the modulus within [`FERMAT_ROUNDS`]: for `n = p * q` it looks for
/// `a = (p + q) / 2`, the first integer from the root of `n` upwards for which `a^2 - n` is a square.
fn has_close_primes(modulus: &BigUint) -> bool {
    let mut a = modulus.sqrt();
    if &a * &a < *modulus {
        a += 1_u32;
    }
    let mut rest = &a * &a - modulus;
    for _ in 0..FERMAT_ROUNDS {
        if is_square(&rest) {
            return true;
        }
        // (a + 1)^2 - n
        rest += (&a << 1_u32) + 1_u32;
        a += 1_u32;
    }
    false
}

/// Taking the root of what cannot be a square would cost most of the time: squares leave few remainders.
fn is_square(value: &BigUint) -> bool {
    for modulus in [64_u32, 63, 65, 11] {
        let remainder = value % modulus;
        if !(0..modulus).any(|root| BigUint::from(root * root % modulus) == remainder) {
            return false;
        }
    }
    let root = value.sqrt();
    &root * &root == *value
}

/// The Baseline Requirements ask for 100.
const FERMAT_ROUNDS: usize = 128;

/// The divisors of every `M` of which 65537 does not generate all remainders, so that they tell something.
const ROCA_PRIMES: [u32; 17] = [
    11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn product(p: u64, q: u64) -> Vec<u8> {
        (BigUint::from(p) * BigUint::from(q)).to_bytes_be()
    }

    #[test]
    fn close_primes_are_found_and_distant_ones_are_not() {
        // Primes just above 2^60, and one just above 3 * 2^59.
        let (p, q, distant) = (
            1_152_921_504_606_847_009,
            1_152_921_504_606_847_067,
            1_729_382_256_910_270_481,
        );
        assert_eq!(weakness(&product(p, q)), Some(Weakness::ClosePrimes));
        assert_eq!(weakness(&product(p, p)), Some(Weakness::ClosePrimes));
        assert_eq!(weakness(&product(p, distant)), None);
    }

    #[test]
    fn fermat_goes_exactly_so_many_rounds() {
        // n = a^2 - b^2 with b chosen so that the search starts `rounds` below a.
        let check = |rounds: u32, expected| {
            let a = BigUint::from(10_u32).pow(60);
            // (a - rounds)^2 < n <= (a - rounds + 1)^2, if b^2 lies between these distances from a^2.
            let b = ((&a << 1_u32) * rounds - BigUint::from(rounds).pow(2)).sqrt();
            let modulus = &a * &a - &b * &b;
            let start = &a - rounds;
            assert!(&start * &start <= modulus);
            assert_eq!(has_close_primes(&modulus), expected, "{rounds}");
        };
        check(1, true);
        check(100, true);
        check(FERMAT_ROUNDS as u32 - 1, true);
        check(FERMAT_ROUNDS as u32 + 2, false);
    }

    #[test]
    fn powers_of_65537_have_the_fingerprint_and_their_neighbours_do_not() {
        let power = BigUint::from(65_537_u32).pow(77);
        assert_eq!(weakness(&power.to_bytes_be()), Some(Weakness::Roca));
        assert!(!has_roca_fingerprint(&(power + 2_u32)));
    }

    #[test]
    fn squares_are_told_from_their_neighbours() {
        for root in [0_u32, 1, 2, 65_535, 4_000_000_000] {
            let square = BigUint::from(root).pow(2);
            assert!(is_square(&square), "{root}");
            assert!(!is_square(&(square + 2_u32)), "{root}");
        }
    }
}
