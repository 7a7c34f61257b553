use crate::locks::ActivityCounts;

/// A stacked bar chart of the last hour, one bar a minute.
pub(super) struct Chart {
    pub bars: Vec<Bar>,
    pub acquired: u64,
    pub refused: u64,
    pub limited: u64,
    /// Requests in the busiest minute.
    pub highest: u64,
}

/// A segment of a bar, in units of the SVG view box.
pub(super) struct Bar {
    pub kind: &'static str,
    pub x: u64,
    pub y: f64,
    pub height: f64,
}

impl Chart {
    pub(super) const HEIGHT: f64 = 100.0;
    /// Distance between two bars.
    const STEP: u64 = 10;

    pub(super) fn new(minutes: &[ActivityCounts]) -> Self {
        let counts = |minute: &ActivityCounts| [minute.acquired, minute.refused, minute.limited].map(u64::from);
        let sum = |kind: usize| minutes.iter().filter_map(|minute| counts(minute).get(kind).copied()).sum();
        let highest = minutes.iter().map(|minute| counts(minute).iter().sum::<u64>()).max().unwrap_or_default();
        let mut bars = Vec::new();
        for (at, minute) in minutes.iter().enumerate() {
            let mut y = Self::HEIGHT;
            for (kind, count) in ["acquired", "refused", "limited"].into_iter().zip(counts(minute)) {
                if count > 0 {
                    // At least one unit, so that a small count stays visible.
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
    fn bars_are_stacked_and_highest_bar_fills_the_chart() {
        let minute = |acquired, refused, limited| ActivityCounts { acquired, refused, limited };
        let chart = Chart::new(&[minute(0, 0, 0), minute(3, 1, 0), minute(1, 0, 0)]);
        let bars: Vec<_> = chart.bars.iter().map(|bar| (bar.kind, bar.x, bar.y, bar.height)).collect();
        assert_eq!(bars, [("acquired", 10, 25.0, 75.0), ("refused", 10, 0.0, 25.0), ("acquired", 20, 75.0, 25.0)]);
        assert_eq!((chart.acquired, chart.refused, chart.limited, chart.highest), (4, 1, 0, 4));
        assert!(Chart::new(&[]).bars.is_empty());
    }
}
