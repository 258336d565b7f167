//! Random numbers that a seed repeats.

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
