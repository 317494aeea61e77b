//! The learning curves as a picture.
//!
//! Invariant: the axes hold every point; nothing is smoothed. Deliberately absent: error bars, as one seed has none.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::curve::Curve;

/// Blue for the strategy under test, orange for random: told apart by colour-blind readers too.
const CHOSEN: RGBColor = RGBColor(0x1d, 0x5f, 0xb4);
const BASELINE: RGBColor = RGBColor(0xd9, 0x6c, 0x1e);
const GREY: RGBColor = RGBColor(0x5b, 0x63, 0x6e);
const SIZE: (u32, u32) = (960, 600);

/// Draws test accuracy against labels for both curves; `subtitle` says what was measured. Returns the SVG.
pub fn learning_curve(chosen: &Curve, random: &Curve, subtitle: &str) -> anyhow::Result<String> {
    let mut svg = String::new();
    draw(&mut svg, chosen, random, subtitle)
        .map_err(|error| anyhow::anyhow!("cannot draw the curves: {error}"))?;
    Ok(svg)
}

type Failure = Box<dyn std::error::Error>;

fn draw(svg: &mut String, chosen: &Curve, random: &Curve, subtitle: &str) -> Result<(), Failure> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = ("sans-serif", 26).into_font().style(FontStyle::Bold).color(&BLACK);
    root.draw_text("Test accuracy by number of labels", &title, (84, 20))?;
    root.draw_text(subtitle, &("sans-serif", 15).into_font().color(&GREY), (84, 52))?;
    let (labels, low, high) = extent(&[chosen, random]);
    let mut chart = ChartBuilder::on(&root)
        .margin_top(84)
        .margin_right(36)
        .margin_bottom(14)
        .margin_left(14)
        .x_label_area_size(56)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..labels, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.18))
        .axis_style(GREY)
        .x_desc("labels given by annotators")
        .y_desc("test accuracy, all families equally often")
        .x_labels(11)
        .x_label_formatter(&|labels| format!("{labels:.0}"))
        .y_label_formatter(&|share| format!("{:.0} %", 100.0 * share))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    series(&mut chart, chosen, random, CHOSEN, true)?;
    series(&mut chart, random, chosen, BASELINE, false)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .margin(16)
        .legend_area_size(34)
        .background_style(WHITE.mix(0.9))
        .border_style(GREY.mix(0.4))
        .label_font(("sans-serif", 15))
        .draw()?;
    root.present()?;
    Ok(())
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A line from the base with a dot and its figure per round: above the dot where this curve leads `other`, else below; of two equal
/// dots the figure of the `first` curve is above.
fn series(
    chart: &mut Chart<'_, '_>,
    curve: &Curve,
    other: &Curve,
    colour: RGBColor,
    first: bool,
) -> Result<(), Failure> {
    let points = curve.points.iter().map(|point| (point.labels as f64, point.test));
    let line = curve.base.map(|base| (0.0, base)).into_iter().chain(points);
    chart
        .draw_series(LineSeries::new(line, colour.stroke_width(3)))?
        // Plotters takes text for narrower than it is: blanks keep the frame off the name.
        .label(format!("{}    ", curve.strategy))
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 26, y)], colour.stroke_width(3)));
    let style = ("sans-serif", 13).into_font().color(&colour).pos(Pos::new(HPos::Center, VPos::Center));
    for (index, point) in curve.points.iter().enumerate() {
        let lead = other.points.get(index).map_or(0.0, |other| point.test - other.test);
        let above = if lead == 0.0 { first } else { lead > 0.0 };
        let offset = if above { -17 } else { 18 };
        let figure = Text::new(format!("{:.1}", 100.0 * point.test), (0, offset), style.clone());
        let dot = EmptyElement::at((point.labels as f64, point.test))
            + Circle::new((0, 0), 5, colour.filled())
            + figure;
        chart.draw_series(std::iter::once(dot))?;
    }
    Ok(())
}

/// The last number of labels with some air, and the accuracies to show, in steps of 5 per cent.
fn extent(curves: &[&Curve]) -> (f64, f64, f64) {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let labels = points().map(|point| point.labels).max().unwrap_or(1) as f64;
    let tests = || points().map(|point| point.test).chain(curves.iter().filter_map(|curve| curve.base));
    let (low, high) = (tests().fold(1.0, f64::min), tests().fold(0.0, f64::max));
    let step = 0.05;
    let (low, high) = (((low - 0.05) / step).floor() * step, ((high + 0.03) / step).ceil() * step);
    (labels * 1.06, low.max(0.0), high.clamp(step, 1.0).max(low.max(0.0) + step))
}

#[cfg(test)]
mod tests {
    use super::super::curve::tests::curve;
    use super::*;

    #[test]
    fn the_picture_names_axes_and_curves_and_holds_every_figure() -> anyhow::Result<()> {
        let svg = learning_curve(
            &curve("VALUE_K_CENTER", &[0.41, 0.47]),
            &curve("RANDOM", &[0.39, 0.44]),
            "500 boards",
        )?;
        let wanted =
            ["labels given by annotators", "test accuracy", "VALUE_K_CENTER", "RANDOM", "500 boards"];
        for text in wanted.iter().chain(&["41.0", "47.0", "39.0", "44.0"]) {
            assert!(svg.contains(text), "{text} is missing");
        }
        Ok(())
    }

    #[test]
    fn axes_hold_all_points_even_when_there_are_none() {
        let (labels, low, high) = extent(&[&curve("MARGIN", &[0.41, 0.47]), &curve("RANDOM", &[0.02, 1.0])]);
        assert!(labels > 200.0 && low == 0.0 && high == 1.0);
        let (_, low, high) = extent(&[&Curve::default()]);
        assert!(low < high);
    }
}
