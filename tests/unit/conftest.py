"""No unit test fails for the time it took: the machine may be busy."""

import hypothesis

hypothesis.settings.register_profile("muster", deadline=None)
hypothesis.settings.load_profile("muster")
