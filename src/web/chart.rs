use crate::locks::Counts;

/// A small graph of the last hour: a bar for each minute, one kind upon the other.
pub(super) struct Chart {
    pub bars: Vec<Bar>,
    pub acquired: u64,
    pub refused: u64,
    pub limited: u64,
    /// How many requests the highest bar stands for.
    pub highest: u64,
}

/// A part of a bar, in the units of the drawing.
pub(super) struct Bar {
    pub kind: &'static str,
    pub x: u64,
    pub y: f64,
    pub height: f64,
}

impl Chart {
    pub(super) const HEIGHT: f64 = 100.0;
    /// From one bar to the next.
    const STEP: u64 = 10;

    pub(super) fn new(minutes: &[Counts]) -> Self {
        let counts = |minute: &Counts| [minute.acquired, minute.refused, minute.limited].map(u64::from);
        let sum = |kind: usize| minutes.iter().filter_map(|minute| counts(minute).get(kind).copied()).sum();
        let highest = minutes.iter().map(|minute| counts(minute).iter().sum::<u64>()).max().unwrap_or_default();
        let mut bars = Vec::new();
        for (at, minute) in minutes.iter().enumerate() {
            let mut y = Self::HEIGHT;
            for (kind, count) in ["acquired", "refused", "limited"].into_iter().zip(counts(minute)) {
                if count > 0 {
                    // What there was is seen, however little beside the rest.
                    let height = (count as f64 / highest as f64 * Self::HEIGHT).max(1.0);
                    y -= height;
                    bars.push(Bar { kind, x: at as u64 * Self::STEP, y, height });
                }
            }
        }
        Self { bars, acquired: sum(0), refused: sum(1), limited: sum(2), highest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_upon_each_other_and_the_highest_fills_the_drawing() {
        let minute = |acquired, refused, limited| Counts { acquired, refused, limited };
        let chart = Chart::new(&[minute(0, 0, 0), minute(3, 1, 0), minute(1, 0, 0)]);
        let bars: Vec<_> = chart.bars.iter().map(|bar| (bar.kind, bar.x, bar.y, bar.height)).collect();
        assert_eq!(bars, [("acquired", 10, 25.0, 75.0), ("refused", 10, 0.0, 25.0), ("acquired", 20, 75.0, 25.0)]);
        assert_eq!((chart.acquired, chart.refused, chart.limited, chart.highest), (4, 1, 0, 4));
        assert!(Chart::new(&[]).bars.is_empty());
    }
}
