//! The erasure code of kcp-go. Data shards are values of a polynomial at the points 0, 1, …; parity shards its values at the
//! points that follow. So any `data` of them determine the others: interpolation, which is what multiplying a Vandermonde
//! matrix with the inverse of its top amounts to.

use fearless_simd::Level;

use super::Shape;
use super::gf::{exp, level, log, mul_add};

/// The coefficients of one shape.
#[derive(Debug)]
pub(crate) struct Code {
    shape: Shape,
    /// A row per parity shard: how each data shard enters it.
    rows: Vec<u8>,
    level: Level,
}

impl Code {
    pub(super) fn new(shape: Shape) -> Self {
        let known: Vec<u8> = (0..shape.data()).collect();
        let weights = Weights::new(&known);
        let rows = (shape.data()..shape.total()).flat_map(|at| weights.coefficients(&known, at)).collect();
        Self { shape, rows, level: level() }
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// How data shard `data` enters parity shard `row`, counted from 0.
    fn coefficient(&self, row: usize, data: usize) -> u8 {
        self.rows[row * usize::from(self.shape.data()) + data]
    }

    /// Adds bytes of data shard `data` to the same bytes of parity shard `row`.
    pub(super) fn add(&self, row: usize, data: usize, bytes: &[u8], parity: &mut [u8]) {
        mul_add(self.level, self.coefficient(row, data), bytes, parity);
    }

    /// Computes the shard at `missing` from the shards at the points `known`, of which there must be as many as the shape has
    /// data shards. `shard` gives their bytes; shorter ones count as padded with zeros. `out` has the length wanted, and is
    /// overwritten.
    pub(super) fn interpolate<'a>(
        &self,
        known: &Known,
        missing: u8,
        shard: impl Fn(u8) -> &'a [u8],
        out: &mut [u8],
    ) {
        debug_assert_eq!(known.points.len(), usize::from(self.shape.data()));
        out.fill(0);
        for (&point, c) in known.points.iter().zip(known.weights.coefficients(&known.points, missing)) {
            mul_add(self.level, c, shard(point), out);
        }
    }
}

/// Points at which a polynomial is known.
#[derive(Debug)]
pub(super) struct Known {
    points: Vec<u8>,
    weights: Weights,
}

impl Known {
    pub(super) fn new(points: Vec<u8>) -> Self {
        Self { weights: Weights::new(&points), points }
    }
}

/// What Lagrange's formula has in its denominators: of each point the product of its differences to the others, as a
/// logarithm.
#[derive(Debug)]
struct Weights(Vec<usize>);

impl Weights {
    fn new(points: &[u8]) -> Self {
        let weight =
            |at: &u8| points.iter().filter(|point| *point != at).map(|point| log(at ^ point)).sum::<usize>();
        Self(points.iter().map(|at| weight(at) % 255).collect())
    }

    /// With which coefficients the values at `points` give the value at `at`, which is none of them.
    fn coefficients(&self, points: &[u8], at: u8) -> impl Iterator<Item = u8> {
        let whole = points.iter().map(|point| log(at ^ point)).sum::<usize>() % 255;
        points.iter().zip(&self.0).map(move |(point, weight)| {
            let below = (weight + log(at ^ point)) % 255;
            exp(whole + 255 - below)
        })
    }
}

#[cfg(test)]
mod tests {
    use reed_solomon_erasure::galois_8::ReedSolomon;

    use super::*;

    fn code(data: u8, parity: u8) -> Code {
        Code::new(Shape::new(data, parity).unwrap())
    }

    /// The rows of kcp-go, from its documentation of the format.
    #[test]
    fn rows_are_those_of_kcp_go() {
        let rows = |data, parity| code(data, parity).rows;
        assert_eq!(
            rows(10, 3),
            [
                [129, 150, 175, 184, 210, 196, 254, 232, 3, 2],
                [150, 129, 184, 175, 196, 210, 232, 254, 2, 3],
                [191, 214, 98, 10, 6, 111, 223, 183, 5, 4],
            ]
            .concat()
        );
        assert_eq!(rows(1, 1), [1]);
        assert_eq!(rows(2, 1), [3, 2]);
        assert_eq!(rows(3, 2), [1, 1, 1, 15, 8, 6]);
    }

    #[test]
    fn a_byte_that_all_data_shards_share_is_in_every_parity_shard() {
        for (data, parity) in
            [(1, 1), (2, 1), (3, 2), (10, 3), (20, 10), (70, 30), (128, 127), (1, 254), (254, 1)]
        {
            for row in code(data, parity).rows.chunks(usize::from(data)) {
                assert_eq!(row.iter().fold(0, |sum, c| sum ^ c), 1, "{data}/{parity}");
            }
        }
    }

    #[test]
    fn parity_is_that_of_the_reference_crate() {
        let mut rng = fastrand::Rng::with_seed(2);
        for (data, parity) in
            [(1, 1), (1, 3), (2, 2), (4, 3), (10, 3), (17, 5), (70, 30), (128, 127), (254, 1)]
        {
            let ours = code(data, parity);
            let reference = ReedSolomon::new(data.into(), parity.into()).unwrap();
            let mut shards: Vec<Vec<u8>> = (0..data + parity)
                .map(|i| if i < data { (0..50).map(|_| rng.u8(..)).collect() } else { vec![0; 50] })
                .collect();
            reference.encode(&mut shards).unwrap();
            let (data, parity) = shards.split_at(data.into());
            for (row, expected) in parity.iter().enumerate() {
                let mut out = vec![0; 50];
                for (column, shard) in data.iter().enumerate() {
                    ours.add(row, column, shard, &mut out);
                }
                assert_eq!(&out, expected);
            }
        }
    }

    #[test]
    fn any_set_of_shards_gives_the_others() {
        let mut rng = fastrand::Rng::with_seed(3);
        for (data, parity) in [(1, 2), (3, 2), (10, 3), (5, 5)] {
            let code = code(data, parity);
            let mut shards: Vec<Vec<u8>> = (0..data).map(|_| (0..20).map(|_| rng.u8(..)).collect()).collect();
            for row in 0..usize::from(parity) {
                let mut out = vec![0; 20];
                for (column, shard) in shards.iter().take(data.into()).enumerate() {
                    code.add(row, column, shard, &mut out);
                }
                shards.push(out);
            }
            for _ in 0..50 {
                let mut points: Vec<u8> = (0..data + parity).collect();
                rng.shuffle(&mut points);
                let missing = points.split_off(usize::from(data));
                let known = Known::new(points);
                for at in missing {
                    let mut out = vec![0xEE; 20];
                    code.interpolate(&known, at, |point| &shards[usize::from(point)], &mut out);
                    assert_eq!(out, shards[usize::from(at)]);
                }
            }
        }
    }
}
