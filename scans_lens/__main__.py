"""The command line: `python -m scans_lens anchor | reply | explain | fit | evaluate | report | reproduce | …`."""

import typer

from scans_lens.shell import comparing, evaluating, exporting, judging, looking, models, transferring

app = typer.Typer(
    help="Find where a chat model decides to refuse, show it, and steer it prompt by prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = {
    "anchor": looking.anchor,
    "fit": looking.fit,
    "reply": looking.reply,
    "explain": looking.explain,
    "evaluate": evaluating.evaluate,
    "compare": comparing.compare,
    "methods": comparing.methods,
    "calibrate": judging.calibrate,
    "transfer": transferring.transfer,
    "reproduce": comparing.reproduce,
    "export": exporting.export,
    "report": judging.report,
    "label": judging.label,
    "judges": judging.judged,
    "data": judging.data,
    "form": judging.form,
    "check": looking.check,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(models.app, name="models")

if __name__ == "__main__":
    app()
