"""What people see: a report, and the results of the language model, as text for a terminal.

What is rendered does not know its renderer; they are registered here, and imported when they are first used.
"""

from backhand.renderers import register

register("report.text", "backhand.rendering.terminal:as_text")
register("report.html", "backhand.rendering.html:as_html")
register("report.inline", "backhand.rendering.html:as_inline")
register("check.progress", "backhand.rendering.progress:checking_progress")
register("progress.text", "backhand.rendering.classroom:progress_as_text")
