//! Lines and bars as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// What a plot says beside its lines.
#[derive(Copy, Clone, Debug)]
pub struct Labels<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// At its left.
    pub y: &'a str,
}

/// A line and its name.
pub type Line = (String, Vec<(f64, f64)>);

/// Writes `lines` to `path`; an axis begins at zero, or at the smallest value where `log` (x, y) says that it is logarithmic.
///
/// # Errors
/// When the file cannot be written, or there is no point.
pub fn lines(path: &Path, labels: Labels<'_>, log: [bool; 2], lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let x_max = points().map(|point| point.0).fold(0.0, f64::max);
    let x_min = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let y_max = points().map(|point| point.1).fold(0.0, f64::max) * 1.05;
    let y_min = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    if !(x_max > 0.0 && y_max > 0.0) {
        return Err("nothing to plot".into());
    }
    let area = SVGBackend::new(path, (900, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut builder = ChartBuilder::on(&area);
    builder.caption(labels.title, ("sans-serif", 20)).margin(12).x_label_area_size(40).y_label_area_size(64);
    macro_rules! draw {
        ($x:expr, $y:expr) => {{
            let mut chart = builder.build_cartesian_2d($x, $y)?;
            chart.configure_mesh().x_desc(labels.x).y_desc(labels.y).light_line_style(WHITE).draw()?;
            for (i, (name, points)) in lines.iter().enumerate() {
                let colour = Palette99::pick(i).to_rgba();
                chart
                    .draw_series(
                        LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3),
                    )?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE.mix(0.85))
                .border_style(BLACK.mix(0.3))
                .draw()?;
        }};
    }
    match log {
        [false, false] => draw!(0.0..x_max, 0.0..y_max),
        [true, false] => draw!((x_min..x_max).log_scale(), 0.0..y_max),
        [false, true] => draw!(0.0..x_max, (y_min..y_max).log_scale()),
        [true, true] => draw!((x_min..x_max).log_scale(), (y_min..y_max).log_scale()),
    }
    area.present()?;
    Ok(())
}

/// Bars under a heading: a name, and a value or why there is none.
pub type Group = (String, Vec<(String, Result<f64, String>)>);

/// Writes bars from left to right to `path`, group below group, each from zero; the values stand at their ends.
///
/// # Errors
/// When the file cannot be written, or there is no value.
pub fn bars(path: &Path, title: &str, groups: &[Group]) -> Result<(), Box<dyn Error>> {
    const LINE: i32 = 20;
    const LEFT: i32 = 150;
    const WIDTH: i32 = 900;
    let most = groups.iter().flat_map(|(_, bars)| bars).filter_map(|(_, value)| value.as_ref().ok());
    let most = most.copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return Err("nothing to plot".into());
    }
    let rows: usize = groups.iter().map(|(_, bars)| bars.len() + 2).sum();
    let height = u32::try_from(rows)? * LINE.unsigned_abs() + 50;
    let area = SVGBackend::new(path, (WIDTH.unsigned_abs(), height)).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: i32| ("sans-serif", size).into_font();
    area.draw(&Text::new(title.to_owned(), (12, 12), font(20)))?;
    let mut y = 44;
    for (heading, bars) in groups {
        area.draw(&Text::new(heading.clone(), (12, y), font(15)))?;
        y += LINE + 2;
        for (name, value) in bars {
            area.draw(&Text::new(name.clone(), (24, y + 2), font(13)))?;
            // Ours stand out.
            let colour = if name.starts_with("ours") { Palette99::pick(1) } else { Palette99::pick(0) };
            let text = match value {
                Ok(value) => {
                    #[allow(clippy::cast_possible_truncation, reason = "pixels of a picture")]
                    let end = LEFT + (f64::from(WIDTH - LEFT - 110) * value / most) as i32;
                    area.draw(&Rectangle::new(
                        [(LEFT, y), (end.max(LEFT + 1), y + LINE - 4)],
                        colour.filled(),
                    ))?;
                    (end + 6, short(*value))
                }
                Err(why) => (LEFT, why.clone()),
            };
            area.draw(&Text::new(text.1, (text.0, y + 2), font(13)))?;
            y += LINE;
        }
        y += LINE - 2;
    }
    area.present()?;
    Ok(())
}

/// Three digits that count.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
