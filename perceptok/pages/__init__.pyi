from .page import (
    Case as Case,
    Fact as Fact,
    Figure as Figure,
    Table as Table,
    Verdict as Verdict,
    figure_to_svg as figure_to_svg,
    write_page as write_page,
)
