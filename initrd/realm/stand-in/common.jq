# What the checks of manifest and config share. \A and \z are the ends of the text; $ would let a line break pass.

# The only document of a file that was read with --slurp.
def only: if length == 1 then .[0] else error("has \(length) JSON documents, not one") end;

def need(condition; message): if condition then . else error(message) end;

def text: type == "string" and (contains("\u0000") | not);

# A digest in the two algorithms that Islet's registry knows.
def digest: type == "string" and test("\\Asha256:[0-9a-f]{64}\\z|\\Asha512:[0-9a-f]{128}\\z");
