from .page import (
    Case as Case,
)
from .page import (
    Fact as Fact,
)
from .page import (
    Figure as Figure,
)
from .page import (
    Table as Table,
)
from .page import (
    Verdict as Verdict,
)
from .page import (
    figure_svg as figure_svg,
)
from .page import (
    write_page as write_page,
)
