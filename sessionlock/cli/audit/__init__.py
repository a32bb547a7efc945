"""``sessionlock audit``: does an application that knows nothing of us lose updates?"""
