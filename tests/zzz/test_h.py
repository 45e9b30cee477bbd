def test_hang():
    """x"""
    while True: pass
def test_ok():
    """x"""
