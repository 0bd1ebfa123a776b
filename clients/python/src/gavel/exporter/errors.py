"""What the exporter says when it cannot take a model."""


class ExportError(Exception):
    """A model, or a part of it, that cannot become a bundle without changing its scores.

    `reason`: what is wrong; `remedy`: what to do; `op`, `module`, `source`: the operation, the path of the module that runs it and its
    line of code, where they are known.
    """

    def __init__(self, reason, remedy=None, *, op=None, module=None, source=None):
        self.reason, self.remedy, self.op, self.module, self.source = reason, remedy, op, module, source
        super().__init__(self.text())

    def at(self, op=None, module=None, source=None):
        """The same error, with the place filled in where it was not known yet."""
        self.op, self.module, self.source = self.op or op, self.module or module, self.source or source
        self.args = (self.text(),)
        return self

    def text(self):
        lines = [self.reason]
        if self.op:
            lines.append(f"  operation: {self.op}")
        if self.module:
            lines.append(f"  module:    {self.module}")
        if self.source:
            lines.append(f"  source:    {self.source}")
        if self.remedy:
            lines.append(f"  remedy:    {self.remedy}")
        return "\n".join(lines)
