//! Line plots as SVG.

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

/// Writes `lines` to `path`; both axes begin at zero, or at the smallest value where `log` says that y is logarithmic.
///
/// # Errors
/// When the file cannot be written, or there is no point.
pub fn lines(path: &Path, labels: Labels<'_>, log: bool, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let x_max = points().map(|point| point.0).fold(0.0, f64::max);
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
        ($y:expr) => {{
            let mut chart = builder.build_cartesian_2d(0.0..x_max, $y)?;
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
    if log {
        draw!((y_min..y_max).log_scale());
    } else {
        draw!(0.0..y_max);
    }
    area.present()?;
    Ok(())
}
