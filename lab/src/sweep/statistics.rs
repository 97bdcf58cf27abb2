//! Means and their confidence intervals.

/// The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom (any table of it, e.g. NIST/SEMATECH
/// e-Handbook of Statistical Methods, 1.3.6.7.2).
const T: [f64; 30] = [
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
    2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
    2.0518, 2.0484, 2.0452, 2.0423,
];

fn t(degrees: usize) -> f64 {
    if let Some(t) = degrees.checked_sub(1).and_then(|at| T.get(at)) {
        return *t;
    }
    // Cornish and Fisher's expansion around the normal quantile (Abramowitz and Stegun 26.7.5).
    let (z, n) = (1.959_964_f64, degrees as f64);
    z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
}

/// The mean, and half the width of its 95 % confidence interval; the latter `None` for fewer than two numbers.
pub(super) fn mean(numbers: &[f64]) -> (f64, Option<f64>) {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    if numbers.len() < 2 {
        return (mean, None);
    }
    let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, Some(t(numbers.len() - 1) * (variance / n).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_textbook() {
        assert_eq!(mean(&[2.0]), (2.0, None));
        let (m, half) = mean(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        // s = sqrt(2.5), t(4) = 2.776: 2.776 * 1.5811 / 2.2361.
        assert!((m - 3.0).abs() < 1e-12 && (half.unwrap() - 1.9633).abs() < 1e-3, "{m} {half:?}");
        assert!(
            (t(40) - 2.0211).abs() < 1e-4 && (t(120) - 1.9799).abs() < 1e-4 && (t(30) - t(31)).abs() < 0.01
        );
        assert!(T.windows(2).all(|pair| pair[0] > pair[1]));
    }
}
