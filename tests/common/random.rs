//! Random numbers that a seed repeats.

/// The value of an environment variable, such as the number of histories and their first seed.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    /// A number from 0 to `n` - 1.
    pub fn below<N: TryFrom<u64> + TryInto<u64>>(&mut self, n: N) -> N {
        let Ok(n) = n.try_into() else { panic!("`n` is not negative") };
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let Ok(below) = N::try_from((z ^ (z >> 31)) % n) else { panic!("it is less than `n`") };
        below
    }
}
